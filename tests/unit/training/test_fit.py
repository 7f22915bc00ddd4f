"""Fitting: it learns, it repeats, it resumes, it stops, and it says in one line why it cannot."""

import dataclasses
import logging
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from small import HOUR, make_config, make_series

from forecaster.data.windows import Series
from forecaster.errors import ConfigError, DataError
from forecaster.evaluation.rolling import rolling_origin
from forecaster.training.callbacks import Epoch
from forecaster.training.fit import FitResult, fit


def curve(result: FitResult) -> list[Epoch]:
    """Return the history without the clock."""
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in result.history]


@pytest.fixture(scope="module")
def fitted(series: list[Series]) -> FitResult:
    return fit(series, make_config(max_epochs=4))


def test_it_learns(fitted: FitResult) -> None:
    assert fitted.backtest.skill > 0.1
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss
    assert [epoch.number for epoch in fitted.history] == [1, 2, 3, 4]
    assert fitted.updates == fitted.history[-1].updates > 4
    assert fitted.stopped_by == "epochs"
    assert not fitted.stopped_early
    assert 0 < fitted.seconds < 60


def test_the_bundle_holds_the_best_epochs_averaged_weights(fitted: FitResult, series: list[Series]) -> None:
    best = min(epoch.val_mase for epoch in fitted.history)
    assert fitted.best_epoch.val_mase == best
    assert fitted.backtest.mase == pytest.approx(best, rel=1e-6)
    assert fitted.bundle.frequency == "1h"
    assert not fitted.bundle.model.training
    whole = rolling_origin(fitted.bundle.model, series, first_time_us=fitted.validation_time_us)
    assert whole.mase == pytest.approx(best, rel=0.05)  # a longer warm-up changes little


def test_the_same_seed_gives_the_same_model_and_another_gives_another(fitted: FitResult, series: list[Series]) -> None:
    again = fit(series, make_config(max_epochs=4))
    assert curve(again) == curve(fitted)
    assert again.bundle.fingerprint == fitted.bundle.fingerprint
    assert fit(series, make_config(max_epochs=1, seed=2)).bundle.fingerprint != fitted.bundle.fingerprint


def test_a_resumed_training_equals_an_uninterrupted_one(
    fitted: FitResult, series: list[Series], tmp_path: Path
) -> None:
    def pull_the_plug(epoch: Epoch) -> None:
        if epoch.number == 3:
            raise RuntimeError("power cut")

    config = make_config(max_epochs=4, checkpoint_dir=str(tmp_path / "checkpoints"), resume=True)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(series, config, reporters=[pull_the_plug])
    told: list[int] = []
    resumed = fit(series, config, reporters=[lambda epoch: told.append(epoch.number)])
    assert told == [3, 4]
    assert curve(resumed) == curve(fitted)
    assert resumed.bundle.fingerprint == fitted.bundle.fingerprint

    finished = fit(series, config, reporters=[lambda epoch: told.append(epoch.number)])
    assert told == [3, 4]
    assert finished.bundle.fingerprint == fitted.bundle.fingerprint


def test_without_resume_old_checkpoints_are_not_continued(series: list[Series], tmp_path: Path) -> None:
    config = make_config(max_epochs=1, checkpoint_dir=str(tmp_path))
    first, second = fit(series, config), fit(series, config)
    assert [epoch.number for epoch in second.history] == [1]
    assert second.bundle.fingerprint == first.bundle.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_checkpoints_hold_no_code(series: list[Series], tmp_path: Path) -> None:
    fit(series, make_config(max_epochs=1, checkpoint_dir=str(tmp_path)))
    for name in ("best.ckpt", "last.ckpt"):
        assert "state_dict" in torch.load(tmp_path / name, weights_only=True)


def test_patience_ends_it_for_good(series: list[Series], tmp_path: Path) -> None:
    # Such a learning rate makes it worse from the second epoch on.
    settings = {"max_epochs": 50, "patience": 2, "learning_rate": 0.5, "checkpoint_dir": str(tmp_path)}
    result = fit(series, make_config(**settings))
    assert result.stopped_by == "patience"
    assert result.stopped_early
    assert len(result.history) == result.best_epoch.number + 2 < 50
    resumed = fit(series, make_config(**settings, resume=True))
    assert curve(resumed) == curve(result)


def test_the_time_limit_ends_it_and_the_learning_rate_knows(series: list[Series]) -> None:
    result = fit(series, make_config(max_epochs=10_000, max_seconds=1.5))
    assert result.stopped_by == "time"
    assert result.seconds < 6
    assert math.isfinite(result.backtest.mase)
    assert result.history[-1].learning_rate < 0.5 * max(epoch.learning_rate for epoch in result.history)


def test_sigterm_is_an_exit_status_that_says_so(series: list[Series]) -> None:
    """Lightning's own one is 0: whoever started the training would take it for done."""

    def ask_to_end(epoch: Epoch) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as raised:
        fit(series, make_config(), reporters=[ask_to_end])
    assert raised.value.code == 128 + signal.SIGTERM


def test_ctrl_c_is_a_keyboard_interrupt(series: list[Series]) -> None:
    def interrupt(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(series, make_config(), reporters=[interrupt])
    assert signal.getsignal(signal.SIGINT) is handler


def test_it_says_nothing_and_leaves_torch_as_it_was(
    series: list[Series], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    threads, level = torch.get_num_threads(), logging.getLogger("lightning.pytorch").level
    fit(series, make_config(max_epochs=1, threads=2))
    assert torch.get_num_threads() == threads
    assert logging.getLogger("lightning.pytorch").level == level
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_constant_series_is_left_out_of_the_loss_and_named(
    series: list[Series], caplog: pytest.LogCaptureFixture
) -> None:
    flat = Series("flat", 0, HOUR, np.full(360, 3.0))
    config = make_config(max_epochs=1)
    with_flat, without = fit([*series, flat], config), fit(series, config)
    assert with_flat.history[0].train_loss == without.history[0].train_loss
    assert "1 series never change and are left out of the loss: flat" in caplog.text


def test_segments_and_short_series_train_too() -> None:
    whole = make_series(3)
    pieces = [
        Series(s.unique_id, s.start_us + a * HOUR, HOUR, s.values[a:b])
        for s in whole
        for a, b in ((0, 100), (150, 360))
    ]
    short = Series("short", 0, HOUR, whole[0].values[:20])
    result = fit([*pieces, short], make_config(max_epochs=1))
    assert [one.unique_id for one in result.backtest.series] == ["s0", "s1", "s2"]
    assert math.isfinite(result.backtest.mase)


def test_daily_data_without_a_season_trains() -> None:
    config = make_config(max_epochs=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, season_lengths=()))
    assert math.isfinite(fit(make_series(2, 200), config).backtest.mase)


def test_an_lstm_trains(series: list[Series]) -> None:
    config = make_config(max_epochs=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, cell="lstm"))
    assert "cell" in {tensor.name for tensor in fit(series, config).bundle.model.state_spec}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is no series to train on"),
        (make_series(2, 60), r"64 steps are needed, 16 to learn from .* and the last 48 .*; the longest series has 60"),
        ([Series("flat", 0, HOUR, np.ones(360))], "no series changes before 1970-01-14T00:00:00Z"),
        (
            [Series("gone", 0, HOUR, np.where(np.arange(360) < 300, np.arange(360.0), np.nan))],
            "nothing to validate on: from 1970-01-14T00:00:00Z on",
        ),
    ],
)
def test_data_that_does_not_suffice(given: list[Series], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fit(given, make_config())
    assert "\n" not in str(caught.value)


def test_a_default_tail_fits_short_data() -> None:
    result = fit(make_series(2, 100), make_config(max_epochs=1, validation_steps=None))
    assert result.validation_time_us == 80 * HOUR  # a fifth; 14 horizons would be 56 steps


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line(series: list[Series]) -> None:
    with pytest.raises(ConfigError, match=r"training\.device='cuda' is not available"):
        fit(series, make_config(device="cuda"))


def test_a_diverged_training_is_one_line(series: list[Series]) -> None:
    with pytest.raises(ConfigError, match=r"diverged: lower --training\.learning_rate"):
        fit(series, make_config(learning_rate=1e30, gradient_clip_norm=1e30))


def test_a_checkpoint_of_another_training_is_refused(series: list[Series], tmp_path: Path) -> None:
    config = make_config(max_epochs=1, checkpoint_dir=str(tmp_path), resume=True)
    fit(series, config)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, hidden_size=9))
    with pytest.raises(ConfigError, match=r"made with another model; train without --training\.resume"):
        fit(series, other)
    with pytest.raises(ConfigError, match="made with another data"):
        fit(make_series(seed=1), config)
    (tmp_path / "last.ckpt").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"last\.ckpt is not a whole checkpoint of a training"):
        fit(series, config)
