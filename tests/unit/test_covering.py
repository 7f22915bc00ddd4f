"""A covering against the whole product, on drawn options, rules and wishes."""

import itertools

import hypothesis.strategies as st
from hypothesis import given, settings

from tests.covering import Row, combinations, covering, pairs

NAMES = "abcde"


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, list[int]], list[dict[str, list[int]]]]:
    """Return options and rules about them."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=5))
    options = {name: list(range(size)) for name, size in zip(NAMES, sizes, strict=False)}
    rule = st.dictionaries(
        st.sampled_from(sorted(options)), st.lists(st.integers(0, 2), min_size=1, max_size=2), min_size=1, max_size=3
    )
    return options, draw(st.lists(rule, max_size=4))


def product(options: dict[str, list[int]], rules: list[dict[str, list[int]]]) -> list[Row]:
    rows = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    return [row for row in rows if not any(all(row[name] in values for name, values in rule.items()) for rule in rules)]


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(2, 3))
def test_every_possible_combination_occurs_and_no_forbidden_row(
    problem: tuple[dict[str, list[int]], list[dict[str, list[int]]]], strength: int
) -> None:
    options, rules = problem
    several = itertools.combinations(options, min(strength, len(options)))
    wanted = [one for names in several for one in combinations(options, *names)]
    rows, every = covering(options, rules, wanted), product(options, rules)
    assert all(row in every for row in rows)
    for one in wanted:
        possible = any(one.items() <= row.items() for row in every)
        assert any(one.items() <= row.items() for row in rows) == possible
    assert rows == covering(options, rules, wanted)


def test_it_is_far_smaller_than_the_product() -> None:
    options = {name: list(range(3)) for name in "abcdefghij"}  # 59,049 rows
    assert 9 <= len(covering(options, [], list(pairs(options)))) <= 20
