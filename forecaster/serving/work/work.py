"""What waits for the engine: observations, forecasts, or a short function to call between turns."""

from collections.abc import Callable
from typing import Any

from forecaster.serving.work.forecasting import ForecastWork
from forecaster.serving.work.observing import ObserveWork

Work = ObserveWork | ForecastWork | Callable[[], Any]  # what waits for the engine
