"""A version goes from one state to the next as drawn, and only so; its failure says what there is to know."""

import itertools
import math

import pytest

from forecaster.errors import BundleError, ForecasterError, UnavailableError
from forecaster.registry.registry import RegisteredModel
from forecaster.serving.swap.version import ModelState, Version
from tests.unit.serving.swapping import A

DRAWN = {
    (ModelState.LOADING, ModelState.REBUILDING),
    (ModelState.LOADING, ModelState.ACTIVE),
    (ModelState.LOADING, ModelState.FAILED),
    (ModelState.REBUILDING, ModelState.ACTIVE),
    (ModelState.REBUILDING, ModelState.FAILED),
    (ModelState.ACTIVE, ModelState.RETIRED),
}
STEPS = {
    ModelState.REBUILDING: Version.rebuild,
    ModelState.ACTIVE: Version.activate,
    ModelState.RETIRED: Version.retire,
    ModelState.FAILED: lambda version: version.fail(UnavailableError("away")),
}
REGISTERED = RegisteredModel("m", "2", "", "")


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ModelState, STEPS)))
def test_a_version_goes_from_state_to_state_as_drawn(before: ModelState, after: ModelState) -> None:
    version = Version(REGISTERED, before, changed=0.0)
    if (before, after) in DRAWN:
        STEPS[after](version)
        assert version.state is after
        assert version.changed > 0
    else:
        with pytest.raises(AssertionError, match=f"{before.name} to {after.name}"):
            STEPS[after](version)
        assert (version.state, version.changed) == (before, 0.0)


def failed(error: ForecasterError) -> Version:
    version = Version(REGISTERED)
    version.load(A)
    assert version.bundle is A
    assert version.fingerprint == A.fingerprint
    version.fail(error)
    assert version.bundle is None
    return version


def test_a_failure_that_may_pass_is_due_after_a_while_and_a_permanent_one_never() -> None:
    passing, permanent = failed(UnavailableError("away")), failed(BundleError("broken"))
    assert not passing.is_due
    passing.changed -= 61
    permanent.changed -= 1e9
    assert passing.is_due
    assert not permanent.is_due
    assert permanent.failure is not None
    assert permanent.failure.retry_seconds == math.inf
    again = passing.again()
    assert (again.state, again.attempts, again.failure, again.is_due) == (ModelState.LOADING, 2, None, False)


def test_a_failed_version_that_holds_series_says_so_until_it_has_none() -> None:
    version = failed(BundleError("broken"))
    version.hold("the disk is full")
    assert str(version.failure) == "broken; the disk is full"
    version.changed = 0.0
    version.hold("the disk is away")
    assert (str(version.failure), version.changed) == ("broken; the disk is away", 0.0)
    version.hold("")
    assert str(version.failure) == "broken"
    assert version.changed > 0  # whoever is to try again counts from here
