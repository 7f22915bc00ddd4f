"""Whether a model may take another one's place for series that go on: what of two bundles has to be the same.

A series' journal is fed to whatever model comes: what that does not know of it is ignored, what was never given is
missing. Only its time grid is a matter of the series themselves.
"""

from forecaster.model.bundle import Bundle


def same_grid(bundle: Bundle, other: Bundle) -> bool:
    """Return whether two models step through time alike, so that series of one may go on under the other."""
    return bundle.step_us == other.step_us


def misfit(bundle: Bundle, served: Bundle) -> str:
    """Return in a clause why a model cannot take a served one's place, empty if it can."""
    if same_grid(bundle, served):
        return ""
    steps = f"a step of {bundle.frequency}, the served one {served.frequency}"
    return f"it has another time grid, {steps}: register it under a name of its own (--tracking.model)"
