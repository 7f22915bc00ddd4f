"""Late and corrected values through real servers: taken once, known by every forecast afterwards, behind a kill too."""

import asyncio
import datetime as dt
import pathlib
import subprocess
import sys

import polars as pl
import pytest

from forecaster.client import AsyncForecastClient, ForecastClient
from forecaster.errors import InvalidArgumentError
from tests.integration.conftest import START, Server, ServerFactory, wander


def at(hour: int, value: float | None, name: str = "s0") -> pl.DataFrame:
    """Return one row."""
    row = {"unique_id": [name], "ds": [START + dt.timedelta(hours=hour)], "y": [value]}
    return pl.DataFrame(row, schema_overrides={"y": pl.Float64, "ds": pl.Datetime("us", "UTC")})


def put(rows: pl.DataFrame, *changed: pl.DataFrame) -> pl.DataFrame:
    """Return rows with some in the place of those of the same time, or beside them."""
    both = pl.concat([rows, *changed])
    return both.unique(["unique_id", "ds"], keep="last").sort("unique_id", "ds")


def assert_known(client: ForecastClient, rows: pl.DataFrame) -> None:
    """Every forecast is that of a past which came in order."""
    ids = rows["unique_id"].unique(maintain_order=True).to_list()
    found, expected = client.forecast(ids, await_corrections=True), client.forecast_history(rows).forecasts
    assert found.drop("unique_id", "ds").equals(expected.drop("unique_id", "ds"), null_equal=True)
    assert found["ds"].equals(expected["ds"])


def test_late_and_corrected_values_are_taken_once_and_known_afterwards(
    servers: ServerFactory, tmp_path: pathlib.Path
) -> None:
    options = ("--serving.late_steps=24", f"--serving.state={tmp_path / 'state'}")
    server, rows = servers(*options), wander(3, 80).filter(pl.col("ds") != START + dt.timedelta(hours=70))
    with ForecastClient(server.address) as client:
        assert client.observe(rows).applied == len(rows)
        late = client.observe(at(70, 5.5))
        assert (late.filled, late.corrected, late.applied, len(late.rejected)) == (1, 0, 0, 0)
        assert client.observe(at(70, 5.5)).duplicates == 1
        rows = put(rows, at(70, 5.5))
        assert_known(client, rows)

        (refused,) = client.observe(at(40, 9.0)).rejected.iter_rows(named=True)
        assert (refused["reason"], refused["stored_y"]) == ("CONFLICTING_VALUE", rows.row(40, named=True)["y"])
        assert "replace" in refused["message"]
        fixed = client.observe(pl.concat([at(40, 9.0), at(79, None)]), on_conflict="correct")
        assert (fixed.corrected, len(fixed.rejected)) == (2, 0)
        assert (
            client.observe(at(40, rows.row(40, named=True)["y"])).duplicates == 1
        )  # a late retry is no correction back
        rows = put(rows, at(40, 9.0), at(79, None))
        assert_known(client, rows)

        back = client.observe(at(40, 1.25), on_conflict="correct")
        earlier = client.observe(at(-3, 7.0), on_conflict="correct")
        assert (back.corrected, earlier.filled) == (1, 1)
        server.kill()  # before or behind the states that know it
    rows = put(rows, at(40, 1.25), at(-3, 7.0))
    with ForecastClient(servers(*options).address) as client:
        assert_known(client, rows)
        assert client.get_series("s0").length == 83
        client.observe(at(80, 3.0))
        assert_known(client, put(rows, at(80, 3.0)))


def test_streams_and_the_shell_correct_too(server: Server, client: ForecastClient, tmp_path: pathlib.Path) -> None:
    rows = wander(2, 60)
    client.observe(rows)
    with client.stream() as stream:
        assert stream.send(at(58, 4.0)).observed.rejected["reason"].to_list() == ["CONFLICTING_VALUE"]
        assert stream.send(at(58, 4.0), on_conflict="correct").observed.corrected == 1
        stream.send_nowait(at(60, 8.0))
        stream.send_nowait(at(60, 9.0), on_conflict="correct")
        replies = list(stream)
    assert [(reply.observed.applied, reply.observed.corrected) for reply in replies] == [(1, 0), (0, 1)]
    rows = put(rows, at(58, 4.0), at(60, 9.0))
    assert_known(client, rows)

    async def awaited() -> int:
        async with AsyncForecastClient(server.address) as other:
            with pytest.raises(InvalidArgumentError, match="on_conflict='replace' is not one of refuse, correct"):
                await other.observe(at(0, 1.0), on_conflict="replace")  # type: ignore[arg-type]
            return (await other.observe_and_forecast(at(5, -5.0), on_conflict="correct")).observed.corrected

    assert asyncio.run(awaited()) == 1
    put(rows.filter(unique_id="s0"), at(5, -5.0), at(6, -6.0)).write_csv(tmp_path / "mine.csv")
    command = [sys.executable, "-m", "forecaster", "observe", "--server", server.address, "--data.path=mine.csv"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout.splitlines()[0]) == (1, "0 applied, 60 known already, 1 refused")
    assert refused.stdout.splitlines()[-1] == "  if they are corrections: observe --correct"
    done = subprocess.run([*command, "--correct"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 applied, 60 known already, 1 corrected, 0 refused\n"), done
    assert_known(client, put(rows, at(5, -5.0), at(6, -6.0)))


def test_without_a_history_nothing_comes_late(servers: ServerFactory) -> None:
    with ForecastClient(servers("--serving.durability=none").address) as client:
        client.observe(wander(1, 60))
        rejected = client.observe(pl.concat([at(40, 99.0), at(58, 99.0)]), on_conflict="correct").rejected
        assert set(rejected["reason"]) <= {"CONFLICTING_VALUE", "OUT_OF_ORDER"}
        assert len(rejected) == 2
