"""What becomes of a trained model in the registry: a challenger, or the first champion; and of which data it is.

A training never takes a champion's place: what is better is decided by a backtest on data that neither training has
chosen its weights by (`forecaster.registry.rule`, and the pipelines' steps `backtest` and `promote`). Where there is no
champion there is nothing to be better than but the seasonal naive, and the same rule decides on the training's own
backtest.

Knows the registry and the rule; knows nothing of how a model is fitted or logged.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forecaster.config import Config, PromotionConfig, TrackingConfig
from forecaster.data.windows import Series
from forecaster.errors import ConfigError, FieldViolation, ModelNotFoundError
from forecaster.evaluation.scores import Backtest
from forecaster.registry import aliases, registry
from forecaster.registry.registry import CHALLENGER, CHAMPION, RegisteredModel
from forecaster.registry.rule import Measured, RuleVerdict, judge, judged_interval

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STEP_US, _TARGET, _IDS = "data_step_us", "data_target", "data_ids"  # tags of a version that say of which data it is
_SAMPLE = 64  # hashes of ids that a version keeps: so many of a fleet's ids tell whether it is the same fleet
_CANONICAL = "y"  # the target's name in an ingested data set, whatever it was in the sources


def judged(backtest: Backtest, rule: PromotionConfig) -> RuleVerdict:
    """Return how a model does under the rule where there is no champion.

    One series whose forecasts are not finite fails it: the means over the series leave that series out.
    """
    nominal, coverage = judged_interval(backtest.coverage)
    measured = Measured(
        mase=math.nan if backtest.broken else backtest.mase,
        naive_mase=backtest.seasonal_naive_mase,
        coverage=coverage,
        nominal=nominal,
        origins=backtest.origins,
    )
    return judge(measured, rule)


def verdict(backtest: Backtest, rule: PromotionConfig | None = None) -> str:
    """Return why a model must not be the first champion, empty if it may; left out, the rule is the usual one."""
    found = judged(backtest, rule or PromotionConfig())
    return "" if found.passed else found.reason


def take_place(
    client: "MlflowClient", config: TrackingConfig, version: str, *, may_lead: bool
) -> RegisteredModel | None:
    """Make a new version the first champion, or else the challenger; return the champion that stays, if there is one.

    Args:
        client: of the store.
        config: names the registered model.
        version: the new one.
        may_lead: whether it may be the first champion.
    """
    champion = registry.find(client, config, CHAMPION)
    if may_lead and champion is None:
        aliases.promote(client, config, version)
        return None
    registry.set_alias(client, config, CHALLENGER, version)
    return champion


def data_tags(config: Config, series: Sequence[Series]) -> dict[str, str]:
    """Return the tags of a version that tell of which data it is: the time step, the target, and some of the ids."""
    hashes = sorted({_hash(one_series.unique_id) for one_series in series})
    return {
        _STEP_US: str(series[0].step_us),
        _TARGET: config.data.target_column,
        _IDS: " ".join(hashes[:_SAMPLE]),
    }


def require_same_data(config: Config, series: Sequence[Series]) -> None:
    """Refuse to train under the name of a model of other data, which nobody would notice until it serves.

    Other covariates are no other data, nor are more series, or fewer; another time step is, and another target, and ids
    of which none is known.

    Raises:
        ConfigError: the champion is of other data.
        UnavailableError: the store cannot be used.
    """
    try:
        client = registry.existing(config.tracking)
    except ModelNotFoundError:
        return  # there is no store yet
    champion = registry.find(client, config.tracking, CHAMPION)
    if champion is None or not series:
        return
    if differences := _differences(champion.tags, config, series):
        raise ConfigError(
            f"{champion.name} version {champion.version}, the champion, is of other data: {' and '.join(differences)};"
            " give the model of these data a name of its own with --tracking.model",
            [FieldViolation("tracking.model", "there is a model of other data under this name")],
        )


def _differences(tags: dict[str, str], config: Config, series: Sequence[Series]) -> list[str]:
    """Return what is different, in words; what a version does not tell is not."""
    ours = data_tags(config, series)
    theirs = {name: tags.get(name, ours[name]) for name in ours}
    found = []
    if theirs[_STEP_US] != ours[_STEP_US]:
        found.append(f"its time step is {int(theirs[_STEP_US]) / 1e6:g} s, not {int(ours[_STEP_US]) / 1e6:g} s")
    names = theirs[_TARGET], ours[_TARGET]
    if names[0] != names[1] and _CANONICAL not in names:
        found.append(f"it forecasts the column {names[0]!r}, not {names[1]!r}")
    if not set(theirs[_IDS].split()) & {_hash(one_series.unique_id) for one_series in series}:
        found.append(f"none of its series is among these ({series[0].unique_id!r} …)")
    return found


def _hash(unique_id: str) -> str:
    return hashlib.blake2b(unique_id.encode(), digest_size=6).hexdigest()
