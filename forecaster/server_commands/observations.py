"""`forecaster observe`: a file goes to a server, and its series' forecasts may come back."""

import dataclasses
import datetime as dt
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from forecaster.arguments import read_config
from forecaster.errors import ConfigError
from forecaster.output import check_output, show
from forecaster.server_commands.connection import LEVELS, SHOWN, add_server, connect, say_failures, say_unused

_AMENDABLE = {"CONFLICTING_VALUE", "OUT_OF_ORDER"}  # reasons for which a correction would not be refused

if TYPE_CHECKING:
    from forecaster.client import ModelInfo, ObserveResult
    from forecaster.client.inputs import OnConflict
    from forecaster.config import DataConfig


def add_observe_arguments(parser: ArgumentParser) -> None:
    """Add what only `observe` takes."""
    add_server(parser)
    shown = "the registered model, also written --model NAME; left out, the server's first"
    parser.add_argument("--served-model", type=str, default="", metavar="NAME", help=shown)
    shown = "the rows take the place of what was sent of their times before, instead of being refused"
    parser.add_argument("--correct", action="store_true", help=shown)
    shown = "forecast the series of the file right after it, with the levels 0.1 and 0.9, into a CSV or Parquet file"
    parser.add_argument("--forecasts", type=str, metavar="FILE", help=shown)


def observe(arguments: Namespace) -> int:
    """Send the file; return 1 if rows were refused."""
    from forecaster.data.report import inspect_frame
    from forecaster.data.schema import canonical_frame, read_frame
    from forecaster.data.windows import past

    data = read_config(arguments).data
    if data.path is None:
        raise ConfigError("name the file to send: --data.path mine.csv")
    check_output(arguments.forecasts)
    frame = past(read_frame(data), data)
    client, model = connect(arguments.server, arguments.served_model)
    with client:
        step = dt.timedelta(microseconds=data.step_us)
        if model.step != step:
            raise ConfigError(f"the server's model has a step of {model.step}, --data.frequency says {step}")
        known = _known_by(model, data, frame.columns)
        inspect_frame(canonical_frame(frame, known), known).raise_for_errors()
        how: OnConflict = "correct" if arguments.correct else "refuse"
        reply = None
        if arguments.forecasts:
            reply = client.observe_and_forecast(frame, quantile_levels=LEVELS, on_conflict=how)
        result = reply.observed if reply is not None else client.observe(frame, on_conflict=how)
    print(_said(result))
    for message in result.rejected["message"].head(SHOWN):
        print(f"  refused: {message}")
    if not arguments.correct and not _AMENDABLE.isdisjoint(result.rejected["reason"]):
        print("  if they are corrections: observe --correct")
    if result.future is not None:
        print(f"  {len(result.future)} rows of the time ahead left out: forecast --future takes them")
    say_unused(frame.columns, model, data.end_column)
    if reply is not None:
        show(reply.forecasts, arguments.forecasts)
        say_failures(list(reply.failures.values()))
    return 1 if len(result.rejected) else 0


def _said(result: "ObserveResult") -> str:
    """Return what became of the rows in one line."""
    counts = {"applied": result.applied, "known already": result.duplicates}
    counts |= {"corrected": result.corrected} if result.corrected else {}
    counts |= {"filled in late": result.filled} if result.filled else {}
    counts["refused"] = len(result.rejected)
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _known_by(model: "ModelInfo", data: "DataConfig", columns: Iterable[str]) -> "DataConfig":
    """Return how a canonical frame with these columns is read, as far as the model knows them."""
    from forecaster.data.dataset import canonical_names

    kinds = ("past_covariates", "future_covariates", "static_covariates", "static_categories")
    present: dict[str, Any] = {kind: tuple(name for name in getattr(model, kind) if name in columns) for kind in kinds}
    return dataclasses.replace(canonical_names(data), end_column=None, **present)
