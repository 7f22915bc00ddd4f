"""How a command finds its server, and what it says of a frame or an answer of which a part is of no use."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from forecaster.client import ForecastClient, ModelInfo

PATIENCE_SECONDS = 5.0
OUTPUT = "a .csv, .json, .jsonl or .parquet file instead of a table; - writes CSV to the standard output"
LEVELS = (0.1, 0.9)
SHOWN = 5  # of many lines of the same kind


def add_server(parser: ArgumentParser) -> None:
    """Add the option that names the server."""
    parser.add_argument(
        "--server", type=str, default="127.0.0.1:50051", metavar="HOST:PORT", help="the server's address"
    )


def add_model(parser: ArgumentParser) -> None:
    """Add the options that name the server and its model."""
    add_server(parser)
    shown = "the registered model; left out, the server's first"
    parser.add_argument("--model", type=str, default="", metavar="NAME", help=shown)


def connect(address: str, model: str = "") -> "tuple[ForecastClient, ModelInfo]":
    """Return a client and the server's model; raises UnavailableError soon if it does not serve, calls are patient."""
    from forecaster.client import ForecastClient, RetryPolicy

    with ForecastClient(address, model=model, retry=RetryPolicy(timeout_seconds=PATIENCE_SECONDS)) as client:
        info = client.get_model()
    return ForecastClient(address, model=model), info


def say_unused(columns: Iterable[str], model: "ModelInfo", *more: str | None) -> list[str]:
    """Name the columns that the model does not know, and return them."""
    known = ("unique_id", "ds", "y", *model.covariates, *more)
    unused = [name for name in columns if name not in known]
    if unused:
        print(f"  not used, as the model does not know it: {', '.join(unused)}", file=sys.stderr)
    return unused


def say_failures(messages: list[str]) -> None:
    """Say why series have no forecast, of the first ones."""
    for message in messages[:SHOWN]:
        print(f"  no forecast: {message}", file=sys.stderr)
    if (more := len(messages) - SHOWN) > 0:
        print(f"  and of {more} other series", file=sys.stderr)
