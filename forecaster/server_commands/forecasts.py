"""`forecaster forecast`: a server's forecasts as a table or a file."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from forecaster.errors import ConfigError, DataError, SeriesNotFoundError
from forecaster.output import check_output, show
from forecaster.server_commands.connection import LEVELS, OUTPUT, add_model, connect, say_failures, say_unused

if TYPE_CHECKING:
    import polars as pl

    from forecaster.client import ForecastClient, ForecastResult, ModelInfo


def add_forecast_arguments(parser: ArgumentParser) -> None:
    """Add what `forecast` takes."""
    add_model(parser)
    parser.add_argument("series", type=str, nargs="*", help="the series to forecast")
    parser.add_argument("--all", action="store_true", help="forecast all series that can be")
    shown = "forecast the series that can be, and name the others, instead of failing for the first of these"
    parser.add_argument("--allow-partial", action="store_true", help=shown)
    parser.add_argument("--horizon", type=int, metavar="STEPS", help="steps ahead; left out, the model's horizon")
    parser.add_argument("--levels", type=float, nargs="+", default=list(LEVELS), help="quantile levels")
    shown = (
        "a CSV or Parquet file of known-future covariates: unique_id (left out: the same for all), ds, their names;"
        " it may hold other series, and be a file of observations"
    )
    parser.add_argument("--future", type=str, metavar="FILE", help=shown)
    parser.add_argument("--paths", type=int, metavar="N", help="show sampled paths instead of quantiles")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled paths")
    parser.add_argument("--beams", type=int, metavar="K", help="show the most probable paths instead")
    parser.add_argument("--output", type=str, metavar="FILE", help=OUTPUT)


def forecast(arguments: Namespace) -> int:
    """Show the forecasts; return 1 if no series has one."""
    if arguments.paths is not None and arguments.beams is not None:
        raise ConfigError("ask for --paths or for --beams, not for both")
    if bool(arguments.series) == arguments.all:
        raise ConfigError("name the series to forecast, or all of them with --all")
    check_output(arguments.output)
    future = None if arguments.future is None else _read_future(arguments.future)
    client, model = connect(arguments.server, arguments.model)
    with client:
        series = [info.unique_id for info in client.list_series()] if arguments.all else arguments.series
        if not series:
            raise SeriesNotFoundError(f"the server holds no series of {model.name}: observe some first")
        if future is not None:
            future = _without_unused(future, model)
        found = _ask(client, series, arguments, future)
    show(found.forecasts, arguments.output)
    say_failures(found.failures["message"].to_list())
    return 0 if len(found.forecasts) else 1


def _ask(
    client: "ForecastClient", series: list[str], arguments: Namespace, future: "pl.DataFrame | None"
) -> "ForecastResult":
    """Return what was asked for of the series; raises for the first one without it unless some may have none."""
    horizon, beams, paths = arguments.horizon, arguments.beams, arguments.paths
    if paths is not None:
        seed = arguments.seed
        found = client.paths(series, paths, horizon=horizon, seed=seed, future=future, allow_partial=True)
    elif beams is not None:
        found = client.beams(series, beams, horizon=horizon, future=future, allow_partial=True)
    else:
        levels = arguments.levels
        found = client.forecast(series, horizon=horizon, quantile_levels=levels, future=future, allow_partial=True)
    if not (arguments.all or arguments.allow_partial):
        found.raise_for_failures()
    return found


def _read_future(path: str) -> "pl.DataFrame":
    import polars as pl

    from forecaster.data.schema import read_csv

    if not path.lower().endswith((".parquet", ".pq")):
        return read_csv(path)
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _without_unused(future: "pl.DataFrame", model: "ModelInfo") -> "pl.DataFrame":
    """Drop, and name, columns that the model does not know; raises DataError for those that are misspelt."""
    from forecaster.client.covariates import refuse_misspelt

    refuse_misspelt(future, model)
    return future.drop(say_unused(future.columns, model))
