"""What a training shows: lines in a file, a bar with the same lines above it on a terminal, quiet otherwise."""

import io
import logging
import warnings

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from small import make_config

from forecaster.data.windows import Series
from forecaster.training.callbacks import Epoch, progress_on, quiet_lightning
from forecaster.training.fit import fit

EPOCH = Epoch(
    number=3,
    train_loss=0.2384,
    val_mase=1.0391,
    val_seasonal_naive_mase=1.5072,
    val_pinball=0.3,
    val_coverage_80=0.8,
    learning_rate=0.001,
    seconds=24.4,
    updates=96,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_an_epoch_is_one_line() -> None:
    assert EPOCH.line(30) == "epoch 3/30  train_loss 0.238  val_mase 1.039 (seasonal naive 1.507)  24 s"


def test_a_file_gets_one_line_per_epoch(series: list[Series]) -> None:
    stream = io.StringIO()
    callbacks, report = progress_on(stream, 2)
    result = fit(series, make_config(max_epochs=2), reporters=[report], callbacks=callbacks)
    assert stream.getvalue().splitlines() == [epoch.line(2) for epoch in result.history]


def test_a_terminal_gets_a_bar_and_the_same_lines(series: list[Series], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    callbacks, report = progress_on(stream, 2)
    result = fit(series, make_config(max_epochs=2), reporters=[report], callbacks=callbacks)
    shown = stream.getvalue()
    for epoch in result.history:
        assert epoch.line(2) in shown
    assert "━" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the bar is taken away at the end


def test_the_terminal_is_given_back_after_an_error(series: list[Series], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")

    def fail(epoch: Epoch) -> None:
        raise RuntimeError("disk full")

    stream = Terminal()
    callbacks, _ = progress_on(stream, 2)
    with pytest.raises(RuntimeError, match="disk full"):
        fit(series, make_config(), reporters=[fail], callbacks=callbacks)
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is shown again


def test_quiet_hides_chatter_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with quiet_lightning(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rank_zero_info("GPU available: False")
        logging.getLogger("lightning.pytorch").warning("something is off")
        rank_zero_warn("a real warning")
    assert [record.message for record in caplog.records] == ["something is off"]
    assert [str(warning.message) for warning in caught] == ["a real warning"]
