"""The demonstration, step by step: train, serve, load, stream, kill, recover, report.

Knows the order of the steps and what they are compared with; the parts are beside it.

Shapes: B series, K origins, T steps, D horizon steps, Q quantiles.
"""

import dataclasses
import datetime as dt
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import polars as pl
import torch
import yaml
from rich.console import Console
from rich.progress import Progress

from forecaster.client import ForecastClient, RetryPolicy
from forecaster.config import Config, DataConfig, ServingConfig, TrackingConfig, to_dict
from forecaster.data.schema import read_frame
from forecaster.data.windows import Series, latest_segments, to_segments
from forecaster.demo.report import DemoReport
from forecaster.demo.server_process import ServerProcess
from forecaster.demo.stream import Kept, Streamed, as_array, kept, load, stream
from forecaster.errors import ConfigError, ForecasterError
from forecaster.evaluation.rolling import fill_by_season, forecast, mase_units, seasonal_steps_back
from forecaster.evaluation.scores import Backtest, Sums
from forecaster.model.bundle import Bundle
from forecaster.registry.registry import CHAMPION, connect, find, load_bundle, newest
from forecaster.registry.store_uri import sqlite_uri
from forecaster.serving.storage.opening import open_storage
from forecaster.training.pictures.figures import Fan, fan_chart

_SEASON = 24  # hours, of MASE and of the seasonal naive
_RETRY = RetryPolicy(timeout_seconds=120)  # longer than a restart
_PICTURED = ("EWR/temperature", "JFK/humidity", "LGA/wind_speed", "JFK/pressure")
_CONFIG, _STATE, _REPORT, _PICTURE = "config.yaml", "state", "report.json", "forecasts.png"
_MARKER = ".forecaster-demo"  # this folder is the demonstration's own


@dataclass(frozen=True, slots=True)
class _Data:
    """The bundled weather, cut in two."""

    history: pl.DataFrame
    later: pl.DataFrame
    since: dt.datetime

    @property
    def everything(self) -> pl.DataFrame:
        return pl.concat([self.history, self.later])

    def units(self, bundle: Bundle) -> dict[str, float]:
        """Return each series' unit of MASE, from its history."""
        return mase_units(to_segments(self.history, bundle.step_us, bundle.max_gap_steps), _SEASON)


@dataclass(frozen=True, slots=True)
class _Served:
    """What the server did.

    Args:
        streamed: its forecasts, and what it had after it was killed.
        at_end: what it had at the end.
        history_seconds: it took to take the history.
        difference_after_kill: of its forecasts to the offline model's, relative.
        difference_at_end: likewise.
    """

    streamed: Streamed
    at_end: Kept
    history_seconds: float
    difference_after_kill: float
    difference_at_end: float


def run(config: Config, output: pathlib.Path, *, days: int = 14, stream_to: TextIO | None = None) -> DemoReport:
    """Run the demonstration on the bundled weather.

    Args:
        config: `model` and `training` are used.
        output: the folder for everything: model store, server state, log, report, picture. The state of an
            earlier demonstration there is deleted, its runs and versions stay.
        days: how many of the last days are streamed.
        stream_to: where progress goes; left out, standard output.

    Raises:
        ForecasterError: a step failed; its message says which.
    """
    out = stream_to or sys.stdout
    output = _prepared(output)
    config = dataclasses.replace(
        config,
        data=DataConfig(),
        tracking=TrackingConfig(uri=sqlite_uri(output / "mlflow.db")),
        serving=ServingConfig(state=str(output / _STATE)),
    )
    (output / _CONFIG).write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
    data = _weather(config, days)
    _say(out, f"1/4  Training on everything before {data.since:%Y-%m-%d} (forecaster train) …")
    train_seconds = _train(output, data.since)
    config = _serving_the_newest(config)
    (output / _CONFIG).write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
    _, bundle = load_bundle(config.tracking, config.serving.alias)
    served = _served(output, bundle, data, out)
    backtest, shown = _scored(bundle, data.units(bundle), data.everything, served.streamed)
    fan_chart(shown).savefig(output / _PICTURE)
    report = _report(backtest, data, served, train_seconds)
    report.write(output / _REPORT)
    return report


def _served(output: pathlib.Path, bundle: Bundle, data: _Data, out: TextIO) -> _Served:
    """Let a server take the history and then hour by hour what came later, kill it half-way, and compare."""
    differences: list[float] = []
    with ServerProcess(output / _CONFIG, output) as server:
        _say(out, "2/4  Starting the server (forecaster serve) and sending it the history …")
        server.start()
        with ForecastClient(server.address, retry=_RETRY) as client:
            history_seconds = load(client, data.history)
            days = data.later["ds"].n_unique() // 24
            _say(out, f"3/4  Streaming {days} days hour by hour; half-way the server is killed (SIGKILL) …")
            units = data.units(bundle)

            def compare(sent: pl.DataFrame, forecasts: pl.DataFrame) -> None:
                differences.append(_difference(bundle, units, sent, as_array(forecasts, client.get_model())))

            streamed = stream(
                server, client, data.history, data.later, after_kill=compare, progress=lambda hours: _shown(hours, out)
            )
            _say(out, "4/4  Comparing with the offline model and stopping the server …")
            model = client.get_model()
            at_end = kept(client, data.everything, model)
            compare(data.everything, client.forecast(sorted(units), quantile_levels=model.quantile_levels))
        server.stop()
    return _Served(streamed, at_end, history_seconds, differences[0], differences[-1])


def _report(backtest: Backtest, data: _Data, served: _Served, train_seconds: float) -> DemoReport:
    streamed, after_kill = served.streamed, served.streamed.after_kill
    return DemoReport(
        series=len(streamed.quantiles),
        hours=len(streamed.origins),
        horizon=streamed.quantiles.shape[2],
        mase=backtest.mase,
        seasonal_naive_mase=backtest.seasonal_naive_mase,
        coverage_80=backtest.coverage[0.8],
        observations_acknowledged=after_kill.acknowledged,
        observations_recovered=after_kill.recovered,
        lost=after_kill.lost + served.at_end.lost,
        applied_twice=after_kill.applied_twice + served.at_end.applied_twice,
        unanswered_at_kill=streamed.in_flight,
        restart_seconds=streamed.restart_seconds,
        offline_difference=served.difference_at_end,
        offline_difference_after_kill=served.difference_after_kill,
        forecast_p50_ms=float(np.percentile(streamed.forecast_ms, 50)),
        forecast_p99_ms=float(np.percentile(streamed.forecast_ms, 99)),
        observe_p50_ms=float(np.percentile(streamed.observe_ms, 50)),
        observe_p99_ms=float(np.percentile(streamed.observe_ms, 99)),
        history_rows=len(data.history),
        history_seconds=served.history_seconds,
        train_seconds=train_seconds,
    )


def next_steps(output: pathlib.Path) -> str:
    """Return the commands that show more of what the demonstration left in `output`."""
    folder = pathlib.Path(os.path.relpath(output))
    programs = pathlib.Path(os.path.relpath(pathlib.Path(sys.executable).parent))
    config, store = folder / _CONFIG, sqlite_uri(folder / "mlflow.db")
    request = '{"series_ids": ["EWR/temperature"], "options": {"horizon": 3}}'
    url = "http://127.0.0.1:50051/forecaster.v1.ForecastService/Forecast"
    call = ["curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", request, url]
    buf = programs / "buf"
    commands = [
        ("the report and the picture", [str(folder / _REPORT), str(folder / _PICTURE)]),
        ("MLflow's dashboard", [str(programs / "forecaster"), "dashboard", "--tracking.uri", store]),
        ("the server again, with its states", [str(programs / "forecaster"), "serve", "--config", str(config)]),
        ("a forecast", [str(programs / "forecaster"), "forecast", "EWR/temperature", "--horizon", "3"]),
    ]
    if buf.exists():  # which a clone's environment brings
        commands.append(("a forecast from any gRPC client (here buf's)", [str(buf), *call]))
    return "\n".join(f"  {what}:\n    {shlex.join(command)}" for what, command in commands)


def _prepared(output: pathlib.Path) -> pathlib.Path:
    output = output.resolve()
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: choose another --output")
    if output.is_dir() and any(output.iterdir()) and not (output / _MARKER).exists():
        raise ConfigError(f"{output} holds something else: choose another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / _MARKER).touch()
        if (output / _STATE).exists():
            open_storage(
                str(output / _STATE), "commit", TrackingConfig().model
            ).close()  # raises if a server is using it
            shutil.rmtree(output / _STATE)
        (output / "server.log").unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error.strerror}") from error
    return output


def _weather(config: Config, days: int) -> _Data:
    frame = read_frame(config.data).select("unique_id", "ds", "y")
    last: dt.datetime = frame.select(pl.col("ds").max()).item()
    since = last + dt.timedelta(hours=1) - dt.timedelta(days=days)
    return _Data(frame.filter(pl.col("ds") < since), frame.filter(pl.col("ds") >= since).sort("ds", "unique_id"), since)


def _train(output: pathlib.Path, until: dt.datetime) -> float:
    began = time.monotonic()
    command = [sys.executable, "-P", "-m", "forecaster", "train", "--config", str(output / _CONFIG)]
    status = subprocess.run(
        [*command, f"--until={until.isoformat()}"], stdin=subprocess.DEVNULL, check=False
    ).returncode
    if status != 0:
        raise ForecasterError("the training failed: its message is above")
    return time.monotonic() - began


def _serving_the_newest(config: Config) -> Config:
    """Return a configuration that serves what was trained now: beside an earlier demonstration's it is no champion."""
    client = connect(config.tracking)
    last, champion = newest(client, config.tracking), find(client, config.tracking, CHAMPION)
    if last is None or (champion is not None and champion.version == last.version):
        return config
    return dataclasses.replace(config, serving=dataclasses.replace(config.serving, alias=last.version))


def _difference(bundle: Bundle, units: dict[str, float], sent: pl.DataFrame, online: np.ndarray) -> float:
    """Return the largest relative difference of forecasts [B, D, Q] to the offline model's over what was sent."""
    segments = latest_segments(sent, bundle.step_us, bundle.max_gap_steps)
    offline = forecast(bundle.model, segments, online.shape[1]).numpy()
    unit = np.array([units[segment.unique_id] for segment in segments])[:, None, None]
    return float((np.abs(online - offline) / np.maximum(np.abs(offline), unit)).max())


def _scored(
    bundle: Bundle, units: dict[str, float], everything: pl.DataFrame, streamed: Streamed
) -> tuple[Backtest, list[Fan]]:
    """Score the server's forecasts against what came, beside the seasonal naive; pick some for the picture."""
    levels, horizon = bundle.model.config.quantile_levels, streamed.quantiles.shape[2]
    series = latest_segments(everything, bundle.step_us, bundle.max_gap_steps)
    sums = Sums.zeros(len(series), horizon, len(levels), torch.device("cpu"))
    back = seasonal_steps_back(horizon, _SEASON).numpy()
    origin_us = np.array([int(time.timestamp() * 1e6) for time in streamed.origins])  # type: ignore[attr-defined]
    pictured = min(len(origin_us) - 1, 2 * len(origin_us) // 3)
    fans = []
    for row, one_series in enumerate(series):
        at = one_series.grid.index(one_series.start_us, origin_us)  # [K]
        values = np.concatenate([one_series.values, np.full(horizon, np.nan)])
        ahead = at[:, None] + np.arange(1, horizon + 1)  # [K, D]
        target, naive = values[ahead], fill_by_season(one_series.values, _SEASON)[at[:, None] - back]
        part = Sums.zeros(1, horizon, len(levels), torch.device("cpu"))
        quantiles, actual, other = (torch.from_numpy(a[None]) for a in (streamed.quantiles[row], target, naive))
        part.add(quantiles, actual, other, levels)
        sums.merge(part, torch.tensor([row]))
        if one_series.unique_id in _PICTURED:
            fans.append(_fan(one_series, values, int(at[pictured]), streamed.quantiles[row, pictured], levels))
    known = torch.tensor([units[one_series.unique_id] for one_series in series], dtype=torch.float64)
    return sums.summary([one_series.unique_id for one_series in series], known, levels), fans


def _fan(one_series: Series, values: np.ndarray, at: int, quantiles: np.ndarray, levels: tuple[float, ...]) -> Fan:
    steps = np.arange(max(at + 1 - 3 * len(quantiles), 0), at + 1 + len(quantiles))
    time_us = one_series.grid.time(one_series.start_us, steps)
    return Fan(one_series.unique_id, time_us.astype("datetime64[us]"), values[steps], quantiles, levels)


def _shown(hours: Iterable[pl.DataFrame], out: TextIO) -> Iterator[pl.DataFrame]:
    """Yield the hours; show a bar on a terminal, a line for each day otherwise."""
    waiting = list(hours)
    if out.isatty():
        with Progress(console=Console(file=out), transient=True) as progress:
            yield from progress.track(waiting, description="hours streamed")
        return
    for index, hour in enumerate(waiting):
        yield hour
        if (index + 1) % 24 == 0:
            _say(out, f"     day {(index + 1) // 24}/{len(waiting) // 24}")


def _say(out: TextIO, line: str) -> None:
    out.write(line + "\n")
    out.flush()
