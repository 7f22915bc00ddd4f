"""Pages of series with a prefix are the list of all, filtered: in memory or not, in one version or in two."""

import tempfile
from contextlib import closing
from itertools import islice

from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecaster.serving.engine.engine import Engine
from forecaster.serving.storage.opening import open_storage
from forecaster.serving.work.series import before
from tests.unit.serving.folding import BUNDLE, columns, make_bundle, work

# Neighbours by code points: around the surrogates, which are no characters, and the last one that there is.
LETTERS = st.sampled_from(["a", "b", "/", " ", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010fffe", "\U0010ffff"])
NAMES = st.text(LETTERS, min_size=1, max_size=4)


@settings(max_examples=60)
@given(st.lists(NAMES, min_size=1, max_size=30, unique=True), NAMES | st.just(""), NAMES | st.just(""), st.booleans())
@example(["\ue000", "\ud7ff\U0010ffff", "\ud7ff"], "\ue000", "", False)
@example(["a", "ab", "aa", "b"], "a", "aa", False)
def test_a_page_with_a_prefix_is_the_list_filtered(names: list[str], prefix: str, after: str, two: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage, max_resident=4)
        for name in names:
            engine.observe([columns([(name, 1, 1.0)])])
        if two:
            engine.lanes.begin(engine.make_lane(make_bundle(seed=8), "2", empty=True))
        expected = sorted(name for name in names if name.startswith(prefix) and name > after)
        assert list(engine.lanes.page(after, prefix)) == expected
        infos, total = engine.page(after, 3, prefix)
        assert [info.series_id for info in infos] == list(islice(expected, 3))
        assert total == len(names)


@given(NAMES, NAMES)
def test_nothing_with_a_prefix_is_before_where_its_page_begins(prefix: str, rest: str) -> None:
    begin = before(prefix)
    begin.encode()  # it is text that a database takes
    assert begin < prefix
    assert begin < prefix + rest


def test_a_series_is_described_with_what_holds_for_it_now() -> None:
    with tempfile.TemporaryDirectory() as folder, closing(open_storage(folder, "interval")) as storage:
        engine = Engine(BUNDLE, storage)
        engine.observe([work([("a", 1, 1.0, ()), ("b", 1, 1.0, ())], {"a": ({"area": 3.0}, {"region": "north"})})])
        engine.observe([work([("a", 2, 1.0, ())], {"a": ({"area": 4.0}, {})})])
        held = engine.describe("a").attributes
        assert held is not None
        assert (held.numbers, held.categories) == (({"area": 4.0},), ({},))
        assert engine.describe("b").attributes is None
        engine.delete("a")
        engine.observe([work([("a", 3, 1.0, ())])])
        assert engine.describe("a").attributes is None
