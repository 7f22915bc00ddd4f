"""A covering: few rows of options in which every combination that is asked for occurs (pairwise testing).

Faults come, as a rule, of two options together; a few rows hold all pairs, where the product would be millions
(Kuhn, Wallace & Gallo 2004). Greedy, and the same every time: each row begins with the first combination that has not
occurred, and takes for each other option the value that brings the most of those (Cohen et al. 1997).
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Options = Mapping[str, Sequence[Any]]
Rule = Mapping[str, Sequence[Any]]


def pairs(options: Options) -> Iterator[Row]:
    """Yield every pair of values of two options."""
    for names in itertools.combinations(options, 2):
        yield from combinations(options, *names)


def combinations(options: Options, *names: str) -> Iterator[Row]:
    """Yield every combination of the values of some options."""
    for values in itertools.product(*(options[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def covering(options: Options, forbidden: Sequence[Rule], wanted: Iterator[Row] | Sequence[Row]) -> list[Row]:
    """Return rows, a value for each option, in which every wanted combination occurs that is possible.

    Args:
        options: the values of each.
        forbidden: values that do not go together: a row in which every option of a rule has one of the values there.
        wanted: values of some options each.
    """
    left = [one for one in wanted if _completed(options, forbidden, one) is not None]
    rows: list[Row] = []
    while left:
        row = dict(left[0])
        for name in options:
            if name not in row:
                row[name] = _best(options, forbidden, left, row, name)
        rows.append({name: row[name] for name in options})
        left = [one for one in left if not one.items() <= row.items()]
    return rows


def _best(options: Options, forbidden: Sequence[Rule], left: Sequence[Row], row: Row, name: str) -> Any:
    """Return the value of an option that lets most of what is left occur, of those that the row can be ended with."""
    near = [one for one in left if name in one and _fits(one, row)]
    whole, part = collections.Counter[Any](), collections.Counter[Any]()
    for one in near:
        part[one[name]] += 1
        whole[one[name]] += one.keys() <= row.keys() | {name}
    possible = (value for value in options[name] if _completed(options, forbidden, {**row, name: value}) is not None)
    return max(possible, key=lambda value: (whole[value], part[value]))


def _completed(options: Options, forbidden: Sequence[Rule], row: Row) -> Row | None:
    """Return some allowed row that has these values, None if there is none."""
    if any(_breaks(rule, row) for rule in forbidden):
        return None
    free = next((name for name in options if name not in row), None)
    if free is None:
        return row
    tried = (_completed(options, forbidden, {**row, free: value}) for value in options[free])
    return next((one for one in tried if one is not None), None)


def _breaks(rule: Rule, row: Row) -> bool:
    return all(name in row and row[name] in values for name, values in rule.items())


def _fits(combination: Row, row: Row) -> bool:
    return all(row[name] == value for name, value in combination.items() if name in row)
