"""A data set of what a running server has acknowledged, made beside it, and evaluated like any other file."""

import pathlib
from collections.abc import Iterator

import polars as pl
import pytest

from forecaster import cli
from forecaster.client import ForecastClient
from forecaster.config import Config, DataConfig, IngestConfig, TrackingConfig
from forecaster.data.manifest import Changes
from forecaster.data.schema import read_frame
from forecaster.model.bundle import Bundle
from forecaster.serving.storage.sqlite.history import scan
from pipelines import __main__ as pipelines
from pipelines.ingest.step import ingest
from pipelines.training.dataset import ingested
from tests.integration.conftest import ServerFactory, wander
from tests.integration.nursery import Nursery
from tests.integration.server.test_server_covariates import beside, known  # noqa: F401 -- a fixture: a store with a model that knows covariates
from tests.integration.server.test_server_faults import until

OFTEN = ("--serving.snapshot_seconds=0.1", "--serving.journal_seconds=0.2")  # records move to the history at once
DATA = DataConfig(
    past_covariates=("rain",),
    future_covariates=("price", "holiday"),
    static_covariates=("area",),
    static_categories=("region",),
)


@pytest.fixture
def servers(
    known: tuple[TrackingConfig, Bundle],  # noqa: F811
    tmp_path: pathlib.Path,
    nursery: Nursery,
) -> Iterator[ServerFactory]:
    """Return what starts servers of that model."""
    factory = ServerFactory(*known, tmp_path, nursery)
    yield factory
    factory.end()


def test_a_running_servers_observations_become_a_data_set(servers: ServerFactory) -> None:
    state, output = servers.folder / "state", servers.folder / "dataset"
    config = Config(data=DATA, ingest=IngestConfig(state=str(state), output=str(output)))
    server = servers(*OFTEN)
    with ForecastClient(server.address) as client:
        for hours in range(0, 48, 16):
            sent = beside(wander(3, 16, start=hours))
            assert client.observe(sent, send_trailing=True).applied == len(sent)
            client.forecast(["s0"])  # journaled too
            assert ingest(config).changes == Changes(new=len(sent))
        client.delete_series("s2")
        sent = beside(wander(2, 12, start=48))
        assert client.observe(sent, send_trailing=True).applied == len(sent)
        until(lambda: not scan(state / "forecaster" / "history").collect().is_empty())
    server.kill()  # what it has acknowledged is there, whether it runs or not
    assert ingest(config).changes == Changes(new=24)
    expected = pl.concat([beside(wander(3, 48)), sent]).with_columns(pl.col("holiday").cast(pl.Float64))
    held = read_frame(ingested(config).data)
    assert held.equals(expected.select(held.columns).sort("unique_id", "ds"))
    anew = Config(data=DATA, ingest=IngestConfig(state=str(state), output=str(servers.folder / "anew")))
    assert ingest(anew).manifest.rows == 2 * 60  # none of the deleted series
    assert read_frame(ingested(anew).data).equals(held.filter(pl.col("unique_id") != "s2"))
    with ForecastClient(servers().address) as client:  # nothing keeps the state from being opened
        assert client.observe(sent, send_trailing=True).duplicates == len(sent)


def test_a_data_set_is_evaluated_like_a_file(
    registered: tuple[TrackingConfig, Bundle], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`forecaster evaluate --data.path` takes the folder, and says what it says of the file."""
    source, output = tmp_path / "walks.parquet", tmp_path / "walks"
    wander(3, 200).write_parquet(source)
    assert pipelines.main(["ingest", f"--ingest.sources=[{source}]", f"--ingest.output={output}"]) == 0
    assert capsys.readouterr().out.startswith("600 new rows; data set: 600 rows of 3 series, ")
    said = []
    for path in (source, output):
        assert cli.main(["evaluate", f"--tracking.uri={registered[0].uri}", f"--data.path={path}"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
