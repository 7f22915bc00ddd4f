"""The `forecaster` command's side that asks a server: observe, forecast, series, delete, models, activate, health.

Knows how these are called from a shell and how their results look there; what they say to a server is the client's.
"""

import dataclasses
import datetime as dt
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from forecaster.arguments import Command, read_config
from forecaster.errors import ConfigError, DataError, SeriesNotFoundError
from forecaster.output import check_output, show

if TYPE_CHECKING:
    import polars as pl

    from forecaster.client import ForecastClient, ForecastResult, ModelInfo
    from forecaster.config import DataConfig

_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.2
_SHOWN = 5  # of many lines of the same kind
_LEVELS = (0.1, 0.9)
_OUTPUT = "a .csv, .json, .jsonl or .parquet file instead of a table; - writes CSV to the standard output"


def _add_server(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--server", type=str, default="127.0.0.1:50051", metavar="HOST:PORT", help="the server's address"
    )


def _add_model(parser: ArgumentParser) -> None:
    _add_server(parser)
    shown = "the registered model; left out, the server's first"
    parser.add_argument("--model", type=str, default="", metavar="NAME", help=shown)


def _connect(address: str, model: str = "") -> "tuple[ForecastClient, ModelInfo]":
    """Return a client and the server's model; raises UnavailableError soon if it does not serve, calls are patient."""
    from forecaster.client import ForecastClient, RetryPolicy

    with ForecastClient(address, model=model, retry=RetryPolicy(timeout_seconds=_PATIENCE_SECONDS)) as client:
        info = client.get_model()
    return ForecastClient(address, model=model), info


def _add_observe_arguments(parser: ArgumentParser) -> None:
    _add_server(parser)
    shown = "the registered model, also written --model NAME; left out, the server's first"
    parser.add_argument("--served-model", type=str, default="", metavar="NAME", help=shown)
    shown = "forecast the series of the file right after it, with the levels 0.1 and 0.9, into a CSV or Parquet file"
    parser.add_argument("--forecasts", type=str, metavar="FILE", help=shown)


def _observe(arguments: Namespace) -> int:
    from forecaster.data.report import inspect_frame
    from forecaster.data.schema import canonical_frame, read_frame
    from forecaster.data.windows import past

    data = read_config(arguments).data
    if data.path is None:
        raise ConfigError("name the file to send: --data.path mine.csv")
    check_output(arguments.forecasts)
    frame = past(read_frame(data), data)
    client, model = _connect(arguments.server, arguments.served_model)
    with client:
        step = dt.timedelta(microseconds=data.step_us)
        if model.step != step:
            raise ConfigError(f"the server's model has a step of {model.step}, --data.frequency says {step}")
        known = _known_by(model, data, frame.columns)
        inspect_frame(canonical_frame(frame, known), known).raise_for_errors()
        reply = client.observe_and_forecast(frame, quantile_levels=_LEVELS) if arguments.forecasts else None
        result = reply.observed if reply is not None else client.observe(frame)
    print(f"{result.applied} applied, {result.duplicates} known already, {len(result.rejected)} refused")
    for message in result.rejected["message"].head(_SHOWN):
        print(f"  refused: {message}")
    if result.future is not None:
        print(f"  {len(result.future)} rows of the time ahead left out: forecast --future takes them")
    _say_unused(frame.columns, model, data.end_column)
    if reply is not None:
        show(reply.forecasts, arguments.forecasts)
        _say_failures(list(reply.failures.values()))
    return 1 if len(result.rejected) else 0


def _known_by(model: "ModelInfo", data: "DataConfig", columns: Iterable[str]) -> "DataConfig":
    """Return how a canonical frame with these columns is read, as far as the model knows them."""
    from forecaster.data.dataset import canonical_names

    kinds = ("past_covariates", "future_covariates", "static_covariates", "static_categories")
    present: dict[str, Any] = {kind: tuple(name for name in getattr(model, kind) if name in columns) for kind in kinds}
    return dataclasses.replace(canonical_names(data), end_column=None, **present)


def _say_unused(columns: Iterable[str], model: "ModelInfo", *more: str | None) -> list[str]:
    """Name the columns that the model does not know, and return them."""
    known = ("unique_id", "ds", "y", *model.covariates, *more)
    unused = [name for name in columns if name not in known]
    if unused:
        print(f"  not used, as the model does not know it: {', '.join(unused)}", file=sys.stderr)
    return unused


def _add_forecast_arguments(parser: ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("series", type=str, nargs="*", help="the series to forecast")
    parser.add_argument("--all", action="store_true", help="forecast all series that can be")
    shown = "forecast the series that can be, and name the others, instead of failing for the first of these"
    parser.add_argument("--allow-partial", action="store_true", help=shown)
    parser.add_argument("--horizon", type=int, metavar="STEPS", help="steps ahead; left out, the model's horizon")
    parser.add_argument("--levels", type=float, nargs="+", default=list(_LEVELS), help="quantile levels")
    shown = (
        "a CSV or Parquet file of known-future covariates: unique_id (left out: the same for all), ds, their names;"
        " it may hold other series, and be a file of observations"
    )
    parser.add_argument("--future", type=str, metavar="FILE", help=shown)
    parser.add_argument("--paths", type=int, metavar="N", help="show sampled paths instead of quantiles")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled paths")
    parser.add_argument("--beams", type=int, metavar="K", help="show the most probable paths instead")
    parser.add_argument("--output", type=str, metavar="FILE", help=_OUTPUT)


def _forecast(arguments: Namespace) -> int:
    if arguments.paths is not None and arguments.beams is not None:
        raise ConfigError("ask for --paths or for --beams, not for both")
    if bool(arguments.series) == arguments.all:
        raise ConfigError("name the series to forecast, or all of them with --all")
    check_output(arguments.output)
    future = None if arguments.future is None else _read_future(arguments.future)
    client, model = _connect(arguments.server, arguments.model)
    with client:
        series = [info.unique_id for info in client.list_series()] if arguments.all else arguments.series
        if not series:
            raise SeriesNotFoundError(f"the server holds no series of {model.name}: observe some first")
        if future is not None:
            future = _without_unused(future, model)
        found = _ask(client, series, arguments, future)
    show(found.forecasts, arguments.output)
    _say_failures(found.failures["message"].to_list())
    return 0 if len(found.forecasts) else 1


def _say_failures(messages: list[str]) -> None:
    """Say why series have no forecast, of the first ones."""
    for message in messages[:_SHOWN]:
        print(f"  no forecast: {message}", file=sys.stderr)
    if (more := len(messages) - _SHOWN) > 0:
        print(f"  and of {more} other series", file=sys.stderr)


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
    return future.drop(_say_unused(future.columns, model))


def _add_series_arguments(parser: ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("series", type=str, nargs="*", help="which; left out, all")
    parser.add_argument("--output", type=str, metavar="FILE", help=_OUTPUT)


def _series(arguments: Namespace) -> int:
    import polars as pl

    check_output(arguments.output)
    client, _ = _connect(arguments.server, arguments.model)
    with client:
        infos = [client.get_series(name) for name in arguments.series] or list(client.list_series())
    names = ("unique_id", "last_ds", "expected_ds", "length", "observed_length", "model_name", "model_version")
    rows = [[getattr(info, name) for name in names] for info in infos]
    clock, text = pl.Datetime("us", "UTC"), pl.String
    types: list[Any] = [text, clock, clock, pl.Int64, pl.Int64, text, text]
    schema = dict(zip(names, types, strict=True))
    show(pl.DataFrame(rows, schema=schema, orient="row"), arguments.output)
    return 0


def _add_delete_arguments(parser: ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("series", type=str, nargs="+", help="the series to forget for good")


def _delete(arguments: Namespace) -> int:
    client, _ = _connect(arguments.server, arguments.model)
    unknown = 0
    with client:
        for series_id in dict.fromkeys(arguments.series):
            try:
                client.delete_series(series_id)
                print(f"deleted {series_id}")
            except SeriesNotFoundError as error:
                unknown += 1
                print(f"  {error}", file=sys.stderr)
    return int(unknown > 0)


def _health(arguments: Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from forecaster.client.calls import checked_address
    from forecaster.client.channel import open_channel

    address = checked_address(arguments.server)
    with open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_SECONDS)
        except grpc.RpcError as error:
            print(f"{error.code().name}: no answer from {address}")
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


def _models(arguments: Namespace) -> int:
    client, _ = _connect(arguments.server)
    with client:
        for model in client.list_models():
            share = f" {model.progress:.0%}" if model.state == "REBUILDING" else ""
            print(f"{model.name} version {model.version}: {model.state}{share}{model.failure and f', {model.failure}'}")
    return 0


def _add_activate_arguments(parser: ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("version", type=str, help="a version's number or an alias, for example previous")


def _activate(arguments: Namespace) -> int:
    client, _ = _connect(arguments.server, arguments.model)
    with client:
        model = client.activate_model(arguments.version)
        while model.state in ("LOADING", "REBUILDING"):
            time.sleep(_POLL_SECONDS)
            model = client.get_model(model.version)
    print(f"{model.name} version {model.version}: {model.state}{model.failure and f', {model.failure}'}")
    return int(model.state != "ACTIVE")


def _asking(description: str, run: Any, add_arguments: Any) -> Command:
    return Command(description, (), run, add_arguments, has_config=False)


COMMANDS = {
    "models": _asking("list the model versions of a server", _models, _add_server),
    "activate": _asking("let a server change its model's version, and wait", _activate, _add_activate_arguments),
    "observe": Command(
        "send a file of observations to a server",
        ("data",),
        _observe,
        _add_observe_arguments,
        spellings={"--model": "--served-model"},  # the architecture's section, everywhere else
    ),
    "forecast": _asking("ask a server for forecasts", _forecast, _add_forecast_arguments),
    "series": _asking("list the series that a server holds", _series, _add_series_arguments),
    "delete": _asking("let a server forget series for good", _delete, _add_delete_arguments),
    "health": _asking("ask a server for its health: exit code 0 if it serves, 1 if not", _health, _add_server),
}
