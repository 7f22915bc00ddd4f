"""Fit the members of an ensemble, several at once, each in a process and with a seed of its own.

Knows processes and seeds; how one network is fitted is `fit`'s.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from forecaster.config import Config
from forecaster.data.windows import Series
from forecaster.model.bundle import Bundle
from forecaster.model.ensemble import Ensemble
from forecaster.model.seq2seq import Seq2Seq
from forecaster.training.callbacks import Epoch
from forecaster.training.fit import fit
from forecaster.training.processes.ranks import follow_parent


def fit_members(series: Sequence[Series], config: Config, *, members: int, processes: int) -> Bundle:
    """Return an ensemble of networks that differ in their seeds: `training.seed` and those that follow.

    Args:
        series: what is learnt from.
        config: of every member; each takes `training.max_seconds` of its own.
        members: how many.
        processes: how many at once.

    Raises what `fit` raises.
    """
    seeds = [config.training.seed + k for k in range(members)]
    configs = [dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed)) for seed in seeds]
    if members == 1:
        return _fit_one(series, configs[0])
    with tempfile.TemporaryDirectory(prefix="forecaster-members-") as name:
        folders = [pathlib.Path(name) / str(seed) for seed in seeds]
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(processes, context, initializer=follow_parent) as pool:
            jobs = [pool.submit(_fit_into, series, *pair) for pair in zip(configs, folders, strict=True)]
            for job in jobs:
                job.result()
        bundles = [Bundle.load(folder) for folder in folders]
    return together(bundles)


def together(bundles: Sequence[Bundle]) -> Bundle:
    """Return one bundle of single networks."""
    networks = [bundle.model for bundle in bundles if isinstance(bundle.model, Seq2Seq)]
    first = bundles[0]
    return Bundle.of(Ensemble(networks), frequency=first.frequency, max_gap_steps=first.max_gap_steps)


def _fit_into(series: Sequence[Series], config: Config, folder: pathlib.Path) -> None:
    _fit_one(series, config).save(folder)


def _fit_one(series: Sequence[Series], config: Config) -> Bundle:
    def report(epoch: Epoch) -> None:
        sys.stderr.write(f"seed {config.training.seed}: {epoch.line(config.training.max_epochs)}\n")
        sys.stderr.flush()

    return fit(series, config, reporters=[report]).bundle
