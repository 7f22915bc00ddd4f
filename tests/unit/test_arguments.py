"""The command line's configuration: one file for every command, options over it, errors in one line."""

import datetime as dt
from pathlib import Path

import pytest
import yaml

from forecaster.arguments import add_config_arguments, command_parser, parse, read_config, run, utc_time
from forecaster.config import Config, DataConfig, ModelConfig, TrainingConfig, to_dict
from forecaster.errors import ConfigError, DataError


def read(*argv: str) -> Config:
    parser = command_parser("Do something.")
    add_config_arguments(parser, ["data", "model"])
    return read_config(parse(parser, list(argv)))


def test_without_arguments_it_is_the_default() -> None:
    assert read() == Config()


def test_options_change_single_values() -> None:
    config = read("--model.cell", "lstm", "--model.season_lengths", "[24, 168]", "--data.frequency", "15m")
    assert config.model == ModelConfig(cell="lstm", season_lengths=(24, 168))
    assert config.data.frequency == "15m"
    assert config.training == TrainingConfig()


def test_a_file_is_read_and_the_last_one_given_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {cell: lstm, hidden_size: 7}\nserving: {port: 1}\ntraining: {max_seconds: 60}\n")
    config = read("--config", str(path), "--model.hidden_size", "9")
    assert (config.model.cell, config.model.hidden_size) == ("lstm", 9)
    assert read("--model.hidden_size", "9", "--config", str(path)).model.hidden_size == 7
    assert (config.serving.port, config.training.max_seconds) == (1, 60.0)  # sections of other commands


def test_the_data_set_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "mine.yaml"
    path.write_text("ingest: {output: ~/meters}\n")
    assert read("--config", str(path)).ingest.output == f"{tmp_path}/meters"
    assert read("--ingest.output=~/meters").ingest.output == f"{tmp_path}/meters"


def test_what_was_logged_is_read_again(tmp_path: Path) -> None:
    config = Config(
        data=DataConfig(path="x.csv"), model=ModelConfig(quantile_levels=(0.1, 0.5, 0.9)).resolve(3_600_000_000)
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert read("--config", str(path)) == config


def test_the_help_shows_the_sections_that_the_command_uses() -> None:
    parser = command_parser("Do something.", usage="do [options]")
    add_config_arguments(parser, ["model"])
    text = parser.format_help()
    assert "--model.hidden_size HIDDEN_SIZE" in text
    assert "units of each layer" in text
    assert "--serving" not in text
    assert "--model CONFIG" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.hidden_size", "many"], r"model\.hidden_size: expected int\. Got value: many"),
        (["--model.cell", "rnn2"], r"model\.cell: expected 'gru', 'lstm', 'rnn_tanh', .*'output'\. Got value: rnn2"),
        (["--model.hidden_size", "0"], "model.hidden_size=0 is not allowed: use 1 to 4096"),
        (["--hidden", "3"], "unrecognized arguments: --hidden 3"),
        (["--config", "nowhere.yaml"], "config: File does not exist"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(*argv)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text("modle: {cell: lstm}\n")
    with pytest.raises(ConfigError, match="modle"):
        read("--config", str(path))


def test_times_are_utc() -> None:
    assert utc_time("2013-12-17") == dt.datetime(2013, 12, 17, tzinfo=dt.UTC)
    assert utc_time("2013-12-17T01:00:00+01:00") == dt.datetime(2013, 12, 17, tzinfo=dt.UTC)
    assert utc_time("2013-12-17T00:00:00Z").tzinfo is not None
    with pytest.raises(ConfigError, match="'noon' is not a time: write ISO 8601"):
        utc_time("noon")


def test_run_turns_errors_into_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> int:
        raise error

    assert run(lambda: 0) == 0
    assert run(lambda: fail(DataError("two\nlines"))) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert run(lambda: fail(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):
        run(lambda: fail(ZeroDivisionError()))
