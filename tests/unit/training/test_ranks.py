"""Where a process stands, which series are its own, and what of a batch it sees."""

import dataclasses

import pytest
import torch
from small import make_config, make_series

from forecaster.config import TrainerConfig
from forecaster.data.windows import Series
from forecaster.errors import ConfigError
from forecaster.model.covariates import NO_COVARIATES
from forecaster.training.datamodule import Chunk, Cut, LaneDataset
from forecaster.training.fit import fit
from forecaster.training.processes.place import ALONE, Place, place_of
from forecaster.training.processes.ranks import Group

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3"}


def test_without_a_launcher_it_is_the_first_of_those_it_starts() -> None:
    assert place_of(TrainerConfig(), {}) == ALONE
    assert place_of(TrainerConfig(devices=3, strategy="ddp"), {}) == Place(size=3, local_size=3)
    with pytest.raises(ConfigError, match="num_nodes=2 needs a launcher: start it by torchrun on every machine"):
        place_of(TrainerConfig(num_nodes=2, strategy="ddp"), {})


def test_a_launcher_says_where_it_stands_and_is_not_contradicted() -> None:
    place = Place(rank=5, size=6, local_rank=2, local_size=3)
    assert place_of(TrainerConfig(), TORCHRUN) == place
    assert (place.nodes, place.is_first, place.is_alone) == (2, False, False)
    assert place_of(TrainerConfig(devices=3, num_nodes=2, strategy="ddp"), TORCHRUN) == place
    with pytest.raises(ConfigError, match="devices=2 is not allowed: use 3, as the launcher says"):
        place_of(TrainerConfig(devices=2, strategy="ddp"), TORCHRUN)


def test_each_series_belongs_to_one_process_and_all_have_about_the_same() -> None:
    series = [one for k in range(20) for one in make_series(1, 50 + 37 * k)]
    series = [dataclasses.replace(one, unique_id=f"s{k // 2}") for k, one in enumerate(series)]  # two segments each
    shares = [Group(Place(rank=rank, size=3, local_size=3)).share(series) for rank in range(3)]
    assert frozenset().union(*shares) == {one.unique_id for one in series}
    assert sum(map(len, shares)) == 10
    loads = [sum(len(one) for one in series if one.unique_id in share) for share in shares]
    assert max(loads) - min(loads) <= max(len(one) for one in series)


def epoch(series: list[Series], mine: frozenset[str] | None) -> list[Chunk]:
    cut = Cut(lane_steps=100, chunk_steps=30, lanes_per_batch=3, min_chunks=10)
    dataset = LaneDataset(series, [1.0] * len(series), horizon=4, spec=NO_COVARIATES, cut=cut, seed=3, mine=mine)
    chunks = list(dataset)
    assert len(chunks) == len(dataset)
    return chunks


def test_the_processes_parts_of_a_batch_are_the_whole_batch() -> None:
    series = make_series(4, 250)
    shares = [frozenset({"s0", "s3"}), frozenset({"s1"}), frozenset({"s2"})]
    whole, *parts = (epoch(series, mine) for mine in (None, *shares))
    assert {len(part) for part in parts} == {len(whole)}
    for chunk, *of_each in zip(whole, *parts, strict=True):
        rows = [row for part in of_each for row in part.future[torch.isfinite(part.future).any(dim=1)].tolist()]
        seen = chunk.future[torch.isfinite(chunk.future).any(dim=1)].tolist()
        assert sorted(map(repr, rows)) == sorted(map(repr, seen))
        assert {part.first for part in of_each} == {chunk.first}
        assert {part.observations.values.shape[1] for part in of_each} == {chunk.observations.values.shape[1]}


def test_alone_ddp_is_the_plain_training() -> None:
    config, series = make_config(max_epochs=1), make_series()
    ddp = dataclasses.replace(config, trainer=TrainerConfig(strategy="ddp"))
    assert fit(series, ddp).bundle.fingerprint == fit(series, config).bundle.fingerprint
