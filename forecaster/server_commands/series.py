"""`forecaster series` and `forecaster delete`: the series that a server holds."""

import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from forecaster.errors import SeriesNotFoundError
from forecaster.output import check_output, show
from forecaster.server_commands.connection import OUTPUT, add_model, connect


def add_series_arguments(parser: ArgumentParser) -> None:
    """Add what `series` takes."""
    add_model(parser)
    parser.add_argument("series", type=str, nargs="*", help="which; left out, all")
    parser.add_argument("--prefix", type=str, default="", help="those whose ids begin with this")
    parser.add_argument("--output", type=str, metavar="FILE", help=OUTPUT)


def list_series(arguments: Namespace) -> int:
    """Show the series."""
    import polars as pl

    check_output(arguments.output)
    client, _ = connect(arguments.server, arguments.model)
    with client:
        infos = [client.get_series(name) for name in arguments.series] or list(client.list_series(arguments.prefix))
    names = ("unique_id", "last_ds", "expected_ds", "length", "observed_length", "model_name", "model_version")
    rows = [[getattr(info, name) for name in names] for info in infos]
    clock, text = pl.Datetime("us", "UTC"), pl.String
    types: list[Any] = [text, clock, clock, pl.Int64, pl.Int64, text, text]
    schema = dict(zip(names, types, strict=True))
    show(pl.DataFrame(rows, schema=schema, orient="row"), arguments.output)
    return 0


def add_delete_arguments(parser: ArgumentParser) -> None:
    """Add what `delete` takes."""
    add_model(parser)
    parser.add_argument("series", type=str, nargs="+", help="the series to forget for good")


def delete(arguments: Namespace) -> int:
    """Let the server forget series; return 1 if some are unknown."""
    client, _ = connect(arguments.server, arguments.model)
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
