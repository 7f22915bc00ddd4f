"""Pictures of a search: they say what they show, and hold every trial."""

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipelines.tuning.figures import history_chart, importance_chart


def trial(number: int, state: TrialState, value: float | None) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=value,
        params={"training.learning_rate": 0.01},
        distributions={"training.learning_rate": FloatDistribution(0, 1)},
        user_attrs={"reason": "too wide"} if state is TrialState.FAIL else {},
    )
    made.number = number
    return made


def test_the_history_shows_every_trial_and_the_best_so_far() -> None:
    complete, cut, failed = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    states = [(complete, 1.2), (cut, 80.0), (complete, 0.9), (failed, None), (complete, 1.0), (cut, 1.1)]
    figure = history_chart([trial(number, *one) for number, one in enumerate(states)])
    (ax,) = figure.axes
    (line,) = ax.lines
    assert list(line.get_xdata()) == [0, 2, 4, 5]
    assert list(line.get_ydata()) == [1.2, 0.9, 0.9, 0.9]
    done, worse = ax.collections
    assert done.get_offsets().tolist() == [[0, 1.2], [2, 0.9], [4, 1.0]]
    assert [number for number, _ in worse.get_offsets().tolist()] == [1, 5]
    assert worse.get_offsets()[0][1] < 2  # a trial that diverged leaves the others to be seen
    assert ax.get_ylabel() == "validation MASE (lower is better)"
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["best so far", "complete"]


def test_one_trial_is_enough() -> None:
    figure = history_chart([trial(0, TrialState.COMPLETE, 0.0)])
    figure.draw_without_rendering()


def test_importances_are_ordered_and_named() -> None:
    figure = importance_chart({"model.cell": 0.2, "training.learning_rate": 0.7, "model.num_layers": 0.1})
    (ax,) = figure.axes
    figure.draw_without_rendering()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["model.num_layers", "model.cell", "training.learning_rate"]
    assert [text.get_text() for text in ax.texts] == ["10 %", "20 %", "70 %"]
