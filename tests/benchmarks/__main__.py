"""`make bench`: what serving costs, against what the same model costs without a server. Nothing is asserted.

Every figure is the median of several runs on this machine; ratios are of figures taken side by side. The last lines
say the cores and the load, without which no figure means anything.

Shapes: B series of a batch, T steps.
"""

import datetime as dt
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import torch

from forecaster.client import ForecastClient
from forecaster.config import ModelConfig, TrackingConfig
from forecaster.model.bundle import Bundle
from forecaster.model.observations import Observations
from forecaster.model.seq2seq import Seq2Seq
from tests.integration.conftest import HOUR_US, START, ServerFactory, register_bundle

BATCH = 512
SERIES = 2048
HOURS = 48
REPEATS = 5


def median_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of `work`, called once more than that to warm up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def model_figures(model: Seq2Seq) -> dict[str, float]:
    """Return the seconds of the model alone: a step and a decode of one and of B series, a window re-encoded."""
    figures = {}
    with torch.inference_mode():
        for batch in (1, BATCH):
            state = model.initial_state(batch)
            seen = torch.ones(batch, 336, dtype=torch.bool)
            times = torch.arange(336).expand(batch, -1) * HOUR_US
            history = Observations(times, torch.randn(batch, 336, dtype=torch.float64), seen)
            state, _ = model.scan(state, history)
            one = Observations(times[:, -1:] + HOUR_US, history.values[:, :1], seen[:, :1])
            figures[f"step {batch}"] = median_seconds(lambda s=state, o=one: model.scan(s, o), 50)
            figures[f"decode {batch}"] = median_seconds(lambda s=state: model.decode(s, model.config.horizon), 20)
            if batch == 1:
                window = history.part(slice(168))
                figures["encode 168"] = median_seconds(lambda w=window: model.scan(model.initial_state(1), w), 20)
    return figures


def fleet(start: int, hours: int) -> pl.DataFrame:
    """Return `hours` of every series, hour by hour."""
    rng = np.random.default_rng(start)
    ids = [f"series-{k:05d}" for k in range(SERIES)]
    times = [START + dt.timedelta(hours=hour) for hour in range(start, start + hours)]
    frame = pl.DataFrame({"ds": times}).join(pl.DataFrame({"unique_id": ids}), how="cross")
    return frame.with_columns(y=pl.Series(rng.standard_normal(len(frame)))).select("unique_id", "ds", "y")


def served_figures(servers: ServerFactory, durability: str) -> dict[str, float]:
    """Return the seconds of a real server: bulk rows, one observation, one forecast, a forecast of B series."""
    server = servers(f"--serving.durability={durability}", state=f"state-{durability}")
    figures: dict[str, float] = {}
    with ForecastClient(server.address) as client:
        client.observe(fleet(0, HOURS))
        hours = iter(range(HOURS, 10_000))
        bulk = [fleet(next(hours), 1) for _ in range(16)]
        rows = iter([pl.concat(bulk[i : i + 2]) for i in range(0, 16, 2)])
        figures["bulk row"] = median_seconds(lambda: client.observe(next(rows))) / (2 * SERIES)
        singles = iter([fleet(next(hours), 1).head(1) for _ in range(110)])
        figures["observe"] = median_seconds(lambda: client.observe(next(singles)), 100)
        figures["forecast"] = median_seconds(lambda: client.forecast(["series-00000"], quantile_levels=[0.1, 0.9]), 100)
        ids = [f"series-{k:05d}" for k in range(BATCH)]
        figures["forecasts"] = median_seconds(lambda: client.forecast(ids, quantile_levels=[0.1, 0.9])) / BATCH
    server.stop()
    return figures


def main() -> int:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Seq2Seq(ModelConfig().resolve(HOUR_US), HOUR_US).eval()
    print(f"model: {sum(p.numel() for p in model.parameters()):,} weights, {model.state_spec.num_bytes:,} B a series")
    alone = model_figures(model)
    with tempfile.TemporaryDirectory(prefix="forecaster-bench-") as name:
        folder = pathlib.Path(name)
        tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}")
        bundle = Bundle.of(model, frequency="1h", max_gap_steps=1000)
        register_bundle(tracking, bundle)
        servers = ServerFactory(tracking, bundle, folder)
        try:
            durable, volatile = (served_figures(servers, durability) for durability in ("commit", "none"))
        finally:
            for one in servers.started:
                if one.process.poll() is None:
                    one.kill()
    step = alone[f"step {BATCH}"] / BATCH
    rows = [
        ("step of one series, model alone", alone["step 1"], ""),
        (f"step, batch of {BATCH}, per series", step, ""),
        (
            "168 steps re-encoded, one series",
            alone["encode 168"],
            f"{alone['encode 168'] / alone['step 1']:.0f} × a step",
        ),
        (f"decode, batch of {BATCH}, per series", alone[f"decode {BATCH}"] / BATCH, ""),
        (
            "bulk Observe through gRPC, durable, per row",
            durable["bulk row"],
            f"{step / durable['bulk row']:.0%} of the bare step's rate",
        ),
        ("bulk Observe through gRPC, in memory, per row", volatile["bulk row"], f"{step / volatile['bulk row']:.0%}"),
        ("one observation, durable, round trip", durable["observe"], ""),
        ("one observation, in memory, round trip", volatile["observe"], ""),
        ("one forecast, round trip", durable["forecast"], ""),
        (f"{BATCH} forecasts in a request, per series", durable["forecasts"], ""),
    ]
    for what, seconds, note in rows:
        print(f"  {what:<48} {1e6 * seconds:10.1f} µs  {note}".rstrip())
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, one torch thread, medians of {REPEATS} or more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
