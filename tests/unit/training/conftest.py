"""The series that most tests of training use."""

import pytest
from small import make_series

from forecaster.data.windows import Series


@pytest.fixture(scope="session")
def series() -> list[Series]:
    """Return small series that train in a second."""
    return make_series()
