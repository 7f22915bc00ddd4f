"""A data set of what a running server has acknowledged, made beside it, and trained or evaluated on like any other."""

import pathlib

import polars as pl
import pytest

from forecaster import cli
from forecaster.client import ForecastClient
from forecaster.config import Config, DataConfig, IngestConfig
from forecaster.data.manifest import Changes
from forecaster.data.schema import read_frame
from forecaster.serving.history import scan
from pipelines import __main__ as pipelines
from pipelines.dataset import ingested
from pipelines.ingest import ingest

from .conftest import ServerFactory, wander
from .test_server_faults import until

COVARIATES = ("rain", "price")
OFTEN = ("--serving.snapshot_seconds=0.1", "--serving.journal_seconds=0.2")  # records move to the history at once


def beside(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the same rows with covariates: of some series, and now and then."""
    hour = pl.col("ds").dt.hour()
    rain = pl.when(pl.col("unique_id") != "s1", hour % 3 == 0).then(hour.cast(pl.Float64))
    return frame.with_columns(rain=rain, price=pl.when(hour > 6).then(hour * 2.0))


def test_a_running_servers_observations_become_a_data_set(servers: ServerFactory) -> None:
    state, output = servers.folder / "state", servers.folder / "dataset"
    config = Config(
        data=DataConfig(past_covariates=COVARIATES), ingest=IngestConfig(state=str(state), output=str(output))
    )
    server = servers(*OFTEN)
    acknowledged = 0
    with ForecastClient(server.address) as client:
        for hours in range(0, 60, 6):
            sent = beside(wander(4, 6, start=hours))
            acknowledged += client.observe(sent).applied
            client.forecast(["s0"])  # journaled too
            assert ingest(config).changes == Changes(new=len(sent))
        client.delete_series("s3")
        sent = beside(wander(3, 6, start=60))
        assert client.observe(sent).applied == len(sent)
        until(lambda: not scan(state / "forecaster" / "history").collect().is_empty())
    server.kill()  # what it has acknowledged is there, whether it runs or not
    assert ingest(config).changes == Changes(new=18)
    expected = beside(wander(4, 66)).filter((pl.col("unique_id") != "s3") | (pl.col("ds") < wander(1, 61)["ds"].max()))
    held = read_frame(ingested(config).data)
    assert held.equals(expected.select(held.columns).sort("unique_id", "ds"))
    assert acknowledged == len(expected) - 18
    anew = Config(data=config.data, ingest=IngestConfig(state=str(state), output=str(servers.folder / "anew")))
    assert set(read_frame(ingested(anew).data)["unique_id"] if ingest(anew) else []) == {"s0", "s1", "s2"}
    servers()  # nothing of it kept the state from being opened


def test_a_data_set_is_evaluated_like_a_file(
    servers: ServerFactory, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`forecaster evaluate --data.path` takes the folder, and says what it says of the file."""
    source, output = tmp_path / "walks.parquet", tmp_path / "walks"
    wander(3, 200).write_parquet(source)
    assert pipelines.main(["ingest", f"--ingest.sources=[{source}]", f"--ingest.output={output}"]) == 0
    assert capsys.readouterr().out.startswith("600 new rows; data set: 600 rows of 3 series, ")
    said = []
    for path in (source, output):
        assert cli.main(["evaluate", f"--tracking.uri={servers.tracking.uri}", f"--data.path={path}"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
