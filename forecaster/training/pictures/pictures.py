"""Forecasts while a training goes on: the same few series from the same origin, drawn after some of the epochs.

Knows Lightning's hooks and what is worth drawing; knows nothing of MLflow.
"""

import io
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from forecaster.data.windows import Series
from forecaster.training.module import ForecasterModule
from forecaster.training.pictures import figures

if TYPE_CHECKING:
    from PIL.Image import Image

_SERIES = 2
_MAX_PICTURES = 20
_MAX_SHARE = 0.05  # of the training's time
_CYCLES = 4  # of the memory that a state is warmed up by


class ForecastPictures(pl.Callback):
    """Hands a picture of some forecasts of the averaged weights on, up to twenty times over the training.

    Drawing takes a twentieth of the time at the most: of short epochs only some are drawn, the first always.

    Args:
        series: whole histories.
        first_us: the validation tail's first time.
        log: takes a picture and the number of its epoch.
    """

    def __init__(self, series: Sequence[Series], first_us: int, log: "Callable[[Image, int], None]") -> None:
        self._series, self._first_us, self._log = series, first_us, log
        self._began, self._drawing_seconds, self._drawn = 0.0, 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw, if it is time to: here the module has the averaged weights."""
        assert isinstance(pl_module, ForecasterModule)
        now = time.monotonic()
        due = pl_module.progress * _MAX_PICTURES >= self._drawn
        if not due or self._drawing_seconds > _MAX_SHARE * (now - self._began):
            return
        model, epoch = pl_module.model, trainer.current_epoch + 1
        origin_us = figures.last_origin(self._series, model.config.horizon, self._first_us)
        shown = figures.fans(model, self._chosen(origin_us, _CYCLES * model.memory), origin_us)
        if shown:
            self._log(_drawn(shown, f"Forecasts after epoch {epoch}, and what came"), epoch)
            self._drawn += 1
        self._drawing_seconds += time.monotonic() - now

    def _chosen(self, origin_us: int, steps: int) -> list[Series]:
        """Return the newest part of a few series, spread over those that have a value behind the origin."""
        known = [one_series for one_series in self._series if one_series.start_us < origin_us]
        scored = [one for one in known if np.isfinite(one.values[one.time_us >= origin_us]).any()]
        count = min(_SERIES, len(scored))
        chosen = [scored[(2 * i + 1) * len(scored) // (2 * count)] for i in range(count)]
        starts = [max(one_series.grid.index(one_series.start_us, origin_us) - steps, 0) for one_series in chosen]
        return [one_series.part(start, len(one_series)) for one_series, start in zip(chosen, starts, strict=True)]


def _drawn(shown: Sequence[figures.Fan], title: str) -> "Image":
    from PIL import Image

    buffer = io.BytesIO()
    figures.fan_chart(shown, columns=1, title=title).savefig(buffer, format="png")
    return Image.open(buffer)
