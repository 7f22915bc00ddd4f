"""More series than may be resident: whatever is observed, forecast or listed, nobody can tell."""

import pathlib
import sqlite3
from contextlib import closing

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from forecaster.errors import LimitReachedError, SeriesNotFoundError
from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.contract import Storage
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.storage.volatile import VolatileStorage
from forecaster.serving.work.forecasting import ForecastWork
from tests.unit.serving.folding import BUNDLE, GAP, columns

LIMIT = 4
LEVELS = (0.1, 0.5, 0.9)
NAMES = [f"s{k:02}" for k in range(11)]

some = st.lists(st.sampled_from(NAMES), min_size=1, max_size=LIMIT, unique=True)
rows = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([1, 1, 1, 2, GAP + 5])), min_size=1, max_size=LIMIT)
events = st.one_of(
    st.tuples(st.just("observe"), rows),
    st.tuples(st.just("observe"), rows),
    st.tuples(st.just("retry"), st.just(())),
    st.tuples(st.just("forecast"), some),
    st.tuples(st.just("describe"), some),
    st.tuples(st.just("page"), st.sampled_from(["", NAMES[5]])),
    st.tuples(st.just("snapshot"), st.just(())),
    st.tuples(st.just("delete"), some),
    st.tuples(st.just("restart"), st.just(())),
)


class Player:
    """Plays the same events to an engine; what is answered and what the states are can be compared.

    Args:
        storage: of the engine.
        limit: of resident series.
    """

    def __init__(self, storage: Storage, limit: int) -> None:
        self.storage, self.limit = storage, limit
        self.engine = Engine(BUNDLE, storage, max_resident=limit)
        self.recovered = self.engine.recover()[0]
        self.clocks: dict[str, int] = {}
        self.last: list[tuple[str, int, float]] = []
        self.rng = np.random.default_rng(5)

    def play(self, kind: str, values: list[tuple[str, int]]) -> object:
        """Do one event; return what was answered."""
        answer = getattr(self, kind)(values)
        assert len(self.engine.lanes.active.store.resident) <= self.limit
        return answer

    def observe(self, steps: list[tuple[str, int]]) -> object:
        self.last = []
        for name, step in steps:
            self.clocks[name] = self.clocks.get(name, 0) + step
            value = float(self.rng.normal(10, 3)) if self.rng.random() < 0.9 else float("nan")
            self.last.append((name, self.clocks[name], value))
        return self.retry(())

    def retry(self, _: object) -> object:
        return self.engine.observe([columns(self.last)])[0].outcomes.tolist() if self.last else None

    def forecast(self, names: list[str]) -> object:
        answer = self.engine.forecast([ForecastWork(tuple(names), 5, LEVELS)])[0]
        failures = {name: str(error) for name, error in answer.failures.items()}
        return answer.series_ids, answer.quantiles.tolist(), answer.origin_us.tolist(), failures

    def describe(self, names: list[str]) -> object:
        found = []
        for name in names:
            try:
                info = self.engine.describe(name)
            except SeriesNotFoundError:
                found.append(None)
            else:
                live = [(one.horizon, one.scored, repr(one.coverage)) for one in info.live]
                found.append((info.clock_us, info.length, info.observed_length, live))
        return found

    def page(self, after: str) -> object:
        infos, total = self.engine.page(after, 4)
        return [(info.series_id, info.clock_us, info.length) for info in infos], total

    def snapshot(self, _: object) -> object:
        self.engine.snapshot()
        return None

    def delete(self, names: list[str]) -> object:
        gone = [name for name in names if name in self.clocks]
        for name in gone:
            self.engine.delete(name)
            del self.clocks[name]
        self.last = [row for row in self.last if row[0] in self.clocks]
        return gone

    def restart(self, _: object) -> object:
        """Begin anew, as after a stop."""
        self.engine.snapshot()
        self.engine = Engine(BUNDLE, self.storage, max_resident=self.limit)
        return self.engine.recover()[0]

    def states(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the whole state of each series, scores included."""
        store = self.engine.lanes.active.store
        found = {}
        for name in NAMES:
            store.begin_turn()
            slots = store.bring([name])
            if slots[0] >= 0:
                found[name] = {key: tensor[0] for key, tensor in store.gather_whole(slots).items()}
        return found


def assert_bitwise(ours: dict[str, dict[str, torch.Tensor]], theirs: dict[str, dict[str, torch.Tensor]]) -> None:
    assert ours.keys() == theirs.keys()
    for name, state in ours.items():
        for key, tensor in state.items():
            other = theirs[name][key]
            assert tensor.dtype == other.dtype
            assert tensor.numpy().tobytes() == other.numpy().tobytes(), (name, key)


def assert_folded(
    ours: dict[str, dict[str, torch.Tensor]], theirs: dict[str, dict[str, torch.Tensor]], *, same_forecasts: bool
) -> None:
    """Check states that were scanned against states that were stepped: scores of the same forecasts to the bit."""
    assert ours.keys() == theirs.keys()
    for name, state in ours.items():
        for key, tensor in state.items():
            if tensor.is_floating_point() and not (same_forecasts and key.startswith("calibration")):
                np.testing.assert_allclose(tensor, theirs[name][key], rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")
            else:
                assert torch.equal(tensor, theirs[name][key]), (name, key)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=5, max_size=40), st.sampled_from([VolatileStorage, None]))
def test_a_limit_of_resident_series_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, list[tuple[str, int]]]], kind: type | None
) -> None:
    folder = tmp_path_factory.mktemp("eviction")
    storages = [kind() if kind else open_storage(str(folder / str(k)), "interval") for k in range(2)]
    with closing(storages[0]) as small, closing(storages[1]) as large:
        limited, unlimited = Player(small, LIMIT), Player(large, 2**62)
        for event in drawn:
            assert limited.play(*event) == unlimited.play(*event), event
        assert_bitwise(limited.states(), unlimited.states())


def hourly(hour: int, names: list[str] = NAMES) -> list[tuple[str, int, float]]:
    return [(name, hour, float(10 * hour + k)) for k, name in enumerate(names)]


def in_turns(engine: Engine, hours: range, names: list[str] = NAMES) -> None:
    for hour in hours:
        for start in range(0, len(names), LIMIT):
            engine.observe([columns(hourly(hour, names)[start : start + LIMIT])])


@pytest.mark.parametrize("hours", [range(-40, -20), range(20, 40)])
def test_what_is_more_than_may_be_resident_is_refused_before_it_is_journaled(hours: range) -> None:
    engine = Engine(BUNDLE, VolatileStorage(), max_resident=LIMIT)
    in_turns(engine, hours)
    before, states = engine.storage.journal.last_sequence(), len(engine.lanes)
    for names in (NAMES, [f"new {name}" for name in NAMES], [NAMES[0], *(f"new {name}" for name in NAMES[:LIMIT])]):
        with pytest.raises(LimitReachedError, match="ask for fewer at once"):
            engine.observe([columns(hourly(hours.stop, names))])
    assert (engine.storage.journal.last_sequence(), len(engine.lanes)) == (before, states)
    assert engine.broken is None
    assert (engine.observe([columns(hourly(hours.stop)[:LIMIT])])[0].outcomes == 1).all()


def test_a_journal_of_larger_turns_is_recovered(tmp_path: pathlib.Path) -> None:
    """It was written when more series might be resident; a crash while it is recovered costs nothing either."""
    with closing(open_storage(str(tmp_path), "interval")) as storage:
        engine = Engine(BUNDLE, storage)
        for hour in range(6):
            engine.observe([columns(hourly(hour))])
            engine.forecast([ForecastWork(tuple(NAMES), 3, LEVELS)])
            engine.observe([columns(hourly(hour)[:3])])
        engine.observe([columns(hourly(6)[4:])])
        for _ in range(2):  # the first one's evictions have left snapshots
            player = Player(storage, LIMIT)
            assert player.recovered == len(NAMES)
            assert len(player.engine.lanes.active.store.resident) <= LIMIT
            whole = Player(storage, 2**62)
            assert_bitwise(player.states(), whole.states())


def corrupt(folder: pathlib.Path, names: list[str]) -> None:
    """Change a byte of some series' snapshots."""
    with closing(sqlite3.connect(folder / "snapshots.db")) as database, database:
        for name in names:
            found = database.execute("SELECT rowid, state FROM snapshots WHERE series_id = ?", (name,)).fetchall()
            for row, state in found:
                changed = state[:100] + bytes([state[100] ^ 1]) + state[101:]
                database.execute("UPDATE snapshots SET state = ? WHERE rowid = ?", (changed, row))
            assert found


@pytest.mark.parametrize("touch", ["describe", "forecast", "observe", "delete"])
@pytest.mark.parametrize(("hours", "restarts"), [(range(-20, 0), False), (range(20), True)])
def test_a_cold_series_with_a_corrupted_snapshot_is_folded_again(
    tmp_path: pathlib.Path, touch: str, hours: range, restarts: bool
) -> None:
    """Whether it is found by a request, or in the middle of a replay that begins behind the snapshots."""
    with closing(open_storage(str(tmp_path / "good"), "interval")) as good:
        expected = Player(good, 2**62)
        with closing(open_storage(str(tmp_path / "bad"), "interval")) as bad:
            found = Player(bad, LIMIT)
            both = found, expected
            for player in both:
                in_turns(player.engine, hours)
                player.forecast(NAMES[:LIMIT])
                player.snapshot(())
                player.forecast(NAMES[LIMIT : 2 * LIMIT])
                in_turns(player.engine, range(hours.stop, hours.stop + 1), NAMES[:7])
                player.clocks = dict.fromkeys(NAMES[:7], hours.stop) | dict.fromkeys(NAMES[7:], hours.stop - 1)
            resident = found.engine.lanes.active.store.resident
            corrupt(tmp_path / "bad", [name for name in NAMES if name not in resident])
            if restarts:
                found.engine = Engine(BUNDLE, bad, max_resident=LIMIT)
                assert found.engine.recover()[0] == len(NAMES)
            for names in (NAMES[:LIMIT], NAMES[LIMIT : 2 * LIMIT], NAMES[2 * LIMIT :]):
                if touch == "observe":
                    steps = [(name, 1) for name in names]
                    assert found.observe(steps) == expected.observe(steps) == [1] * len(names)
                elif touch == "forecast":
                    ours, theirs = (
                        player.engine.forecast([ForecastWork(tuple(names), 5, LEVELS)])[0] for player in both
                    )
                    np.testing.assert_allclose(ours.quantiles, theirs.quantiles, rtol=1e-4)
                else:
                    assert found.play(touch, names) == expected.play(touch, names)
            assert_folded(found.states(), expected.states(), same_forecasts=touch != "forecast")
            assert found.restart(()) == expected.restart(())
            assert_folded(found.states(), expected.states(), same_forecasts=touch != "forecast")


def test_corrupted_snapshots_of_everything_are_replayed(tmp_path: pathlib.Path) -> None:
    with closing(open_storage(str(tmp_path), "interval")) as storage:
        player = Player(storage, LIMIT)
        in_turns(player.engine, range(10))
        player.forecast(NAMES[:LIMIT])
        player.snapshot(())
        in_turns(player.engine, range(10, 12))
        before = player.states()
        player.snapshot(())
        corrupt(tmp_path, NAMES)
        again = Player(storage, LIMIT)
        assert again.recovered == len(NAMES)
        assert_folded(again.states(), before, same_forecasts=True)
