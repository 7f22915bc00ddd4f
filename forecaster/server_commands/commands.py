"""The commands that ask a server, by name."""

from typing import Any

from forecaster.arguments import Command
from forecaster.server_commands.connection import add_server
from forecaster.server_commands.forecasts import add_forecast_arguments, forecast
from forecaster.server_commands.models import activate, add_activate_arguments, health, list_models
from forecaster.server_commands.observations import add_observe_arguments, observe
from forecaster.server_commands.series import add_delete_arguments, add_series_arguments, delete, list_series


def _asking(description: str, run: Any, add_arguments: Any) -> Command:
    return Command(description, (), run, add_arguments, has_config=False)


COMMANDS = {
    "models": _asking("list the model versions of a server", list_models, add_server),
    "activate": _asking("let a server change its model's version, and wait", activate, add_activate_arguments),
    "observe": Command(
        "send a file of observations to a server",
        ("data",),
        observe,
        add_observe_arguments,
        spellings={"--model": "--served-model"},  # the architecture's section, everywhere else
    ),
    "forecast": _asking("ask a server for forecasts", forecast, add_forecast_arguments),
    "series": _asking("list the series that a server holds", list_series, add_series_arguments),
    "delete": _asking("let a server forget series for good", delete, add_delete_arguments),
    "health": _asking("ask a server for its health: exit code 0 if it serves, 1 if not", health, add_server),
}
