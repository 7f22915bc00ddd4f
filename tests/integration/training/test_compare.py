"""Variants side by side: real trainings, real MLflow on SQLite, the real command."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.cli import main
from forecaster.compare.chart import apart
from forecaster.compare.outcome import VariantOutcome, ranked, table
from forecaster.compare.variants import READY, read_variants
from forecaster.config import Config, DataConfig, ModelConfig, TrackingConfig, TrainingConfig
from forecaster.errors import ConfigError
from forecaster.model.seq2seq import Seq2Seq
from forecaster.registry import registry

HOUR = 3_600_000_000


def write_csv(path: Path) -> Path:
    """Write three wandering series with a season of 12 hours."""
    rng = np.random.default_rng(0)
    steps = np.arange(200)
    frames = []
    for index in range(3):
        y = 50 + rng.normal(size=200).cumsum() * 0.3 + 4 * np.sin(steps * np.pi / 6) + 0.3 * rng.normal(size=200)
        times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 2, 1), "1h", eager=True)[:200]
        frames.append(pl.DataFrame({"ds": times, "y": y}).with_columns(unique_id=pl.lit(f"s{index}")))
    pl.concat(frames).write_csv(path)
    return path


SMALL = {
    "model.hidden_size": 8,
    "model.num_layers": 1,
    "model.decoder_size": 8,
    "model.horizon": 4,
    "model.season_lengths": "[12]",
    "training.max_epochs": 1,
    "training.min_updates": 8,
    "training.validation_steps": 24,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrackingConfig]:
    """Compare three variants, one of which cannot be trained on such data; return the folder and the store."""
    folder = tmp_path_factory.mktemp("compare")
    path = write_csv(folder / "meters.csv")
    variants = folder / "variants.yaml"
    variants.write_text("plain: {}\nlstm:\n  model: {cell: lstm}\ncounts: {model.head: negative_binomial}\n")
    tracking = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db")
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    options += ["--data.path", str(path), "--tracking.uri", tracking.uri, "--budget-seconds", "60"]
    assert main(["compare", "--variants", str(variants), "--output", str(folder / "out"), *options]) == 0
    return folder, tracking


def test_the_table_and_the_picture_are_written(compared: tuple[Path, TrackingConfig]) -> None:
    folder, _ = compared
    lines = (folder / "out" / "comparison.md").read_text().splitlines()
    assert len({len(line) for line in lines[:5]}) == 1  # the columns line up
    assert lines[0].split("|")[1].strip() == "variant"
    names = [line.split("|")[1].strip() for line in lines[2:5]]
    assert sorted(names[:2]) == ["lstm", "plain"]
    assert names[2] == "counts"
    errors = [float(line.split("|")[7]) for line in lines[2:4]]
    assert errors == sorted(errors)
    assert lines[-1].startswith("counts failed: model.head=negative_binomial needs whole numbers")
    assert (folder / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_every_variant_is_a_nested_run_with_its_figures(compared: tuple[Path, TrackingConfig]) -> None:
    _, tracking = compared
    client = registry.connect(tracking)
    runs = client.search_runs([registry.experiment_id(client, tracking)])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["variant"]: run for run in runs if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    status = {name: run.info.status for name, run in children.items()}
    assert status == {"plain": "FINISHED", "lstm": "FINISHED", "counts": "FAILED"}
    lstm = children["lstm"].data
    assert (lstm.params["model.cell"], lstm.params["training.max_seconds"]) == ("lstm", "60.0")
    assert lstm.metrics["parameters"] > children["plain"].data.metrics["parameters"]
    assert lstm.metrics["state_bytes"] == children["plain"].data.metrics["state_bytes"] + 8 * 4  # the cell's memory
    assert min(lstm.metrics["step_us_64"], lstm.metrics["step_us_1"]) > 0
    assert not client.search_registered_models()

    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names == {"comparison.json", "comparison.md", "comparison.png", "variants.yaml"}
    shown = json.loads(Path(client.download_artifacts(parent.info.run_id, "comparison.json")).read_text())
    rows = {row[0]: dict(zip(shown["columns"], row, strict=True)) for row in shown["data"]}
    assert rows["lstm"]["mase"] == pytest.approx(lstm.metrics["mase"])
    assert "negative_binomial" in rows["counts"]["failure"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {model.cell: gru}\nb: {model.cell: gruu}", r"variant 'b' of .*: model.cell: expected 'gru', 'lstm'"),
        ("a: {}\nb: {model.sell: gru}", r"variant 'b' of .*: unrecognized arguments: --model.sell"),
        ("a: {}\nb: {model.layer_periods: [1, 2, 3]}", r"variant 'b' of .*: model.layer_periods=\(1, 2, 3\) is not"),
        ("a: {}\nb: {model.horizon: 3}", r"variant 'b' of .* changes model.horizon, which all variants share"),
        ("a: {}\nb: {data: {path: x.csv}}", r"variant 'b' of .* changes data.path, which all variants share"),
        ("a: {}\nb: 3", r"variant 'b' of .* is 3: write options, such as \{model.cell: lstm\}"),
        ("a: {}", "has 1 variants: a comparison needs two or more"),
        ("- a\n- b", "is no list of variants"),
        ("a: {", "is not YAML"),
    ],
)
def test_a_broken_variant_is_refused_before_anything_trains(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_variants(str(path), Config())
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory; name a YAML file, or family"):
        read_variants(str(tmp_path / "none.yaml"), Config())


@pytest.mark.parametrize("name", READY)
def test_every_variant_of_a_ready_list_is_another_model(name: str) -> None:
    listed = read_variants(name, Config())
    shown = {str((one.config.model, one.config.training)) for one in listed}
    assert len(shown) == len(listed) > 15
    for one in listed:
        Seq2Seq(one.config.model, HOUR)


def test_a_base_configuration_is_what_the_variants_change(tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text("plain:\nseven: {model.hidden_size: 7, training.chunk_steps: null}\n")
    base = Config(
        data=DataConfig(path="x.csv", past_covariates=("rain",)),
        model=ModelConfig(hidden_size=9, season_lengths=(12,)),
        training=TrainingConfig(max_epochs=2),
        tracking=TrackingConfig(experiment="mine"),
    )
    plain, seven = read_variants(str(path), base)
    assert plain.config == base
    assert (seven.config.model.hidden_size, seven.config.training.chunk_steps) == (7, None)
    assert (seven.config.data, seven.config.training.max_epochs) == (base.data, 2)


def test_the_best_comes_first_and_failures_last() -> None:
    figures = dict.fromkeys(("parameters", "training_seconds", "state_bytes", "step_us_1", "step_us_64"), 1.0)
    figures |= dict.fromkeys(("smape", "pinball", "coverage_80", "skill"), 0.5)
    outcomes = [VariantOutcome("broken", failure="no luck")]
    outcomes += [
        VariantOutcome(name, {**figures, "mase": mase}) for name, mase in (("b", 0.9), ("nan", np.nan), ("a", 0.8))
    ]
    assert [one.name for one in ranked(outcomes)] == ["a", "b", "nan", "broken"]
    assert "broken failed: no luck" in table(ranked(outcomes))


@pytest.mark.parametrize("heights", [[0.5], [0.1, 0.1, 0.1], [0.0, 0.9, 0.95, 1.0], list(np.linspace(0.8, 0.9, 30))])
def test_names_stay_apart_in_order_and_inside(heights: list[float]) -> None:
    moved = apart(heights, 0.08)
    assert len(moved) == len(heights)
    gap = min(0.08, 1 / max(len(heights) - 1, 1))
    assert (np.diff(moved) >= gap - 1e-9).all()
    assert min(moved) >= -1e-9
    assert max(moved) <= 1 + 1e-9
