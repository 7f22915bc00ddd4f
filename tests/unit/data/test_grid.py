"""A grid's index and time are each other's inverse, on numbers, arrays, tensors and expressions."""

import numpy as np
import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecaster.data.grid import Grid

grids = st.integers(1, 10**12).map(Grid)
times = st.integers(-(2**50), 2**50)
indexes = st.integers(-(10**5), 10**5)


@given(grids, times, indexes)
def test_the_time_of_an_index_has_it(grid: Grid, origin: int, index: int) -> None:
    time = grid.time(origin, index)
    assert grid.index(origin, time) == index
    assert grid.has(origin, time)
    assert grid.next(time) == grid.time(origin, index + 1)
    assert grid.index(origin, time + grid.step_us - 1) == index
    assert grid.has(origin, time + 1) == (grid.step_us == 1)
    assert grid.first_from(origin, time) == index
    assert grid.first_from(origin, time + 1) == index + 1
    assert grid.time(origin, 3) - origin == grid.span_us(3)
    assert grid.phase(time) == grid.phase(origin)


@given(grids, times, st.lists(indexes, min_size=1, max_size=4))
def test_many_times_are_looked_at_at_once(grid: Grid, origin: int, some: list[int]) -> None:
    expected = [grid.time(origin, index) for index in some]
    arrays = grid.time(origin, np.array(some, dtype=np.int64))
    tensors = grid.time(origin, torch.tensor(some))
    frame = pl.DataFrame({"index": some}).select(grid.time(origin, pl.col("index")).alias("time"))
    assert arrays.tolist() == tensors.tolist() == frame["time"].to_list() == expected
    index, has = grid.index(origin, pl.col("time")), grid.has(origin, pl.col("time"))
    found = frame.select(index.alias("index"), has.alias("has"))
    assert found["index"].to_list() == some
    assert grid.index(origin, arrays).tolist() == grid.index(origin, tensors).tolist() == some
    assert found["has"].all()
    assert grid.has(origin, arrays).all()
