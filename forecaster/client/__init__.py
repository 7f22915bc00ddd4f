"""The client SDK: `ForecastClient` and `AsyncForecastClient`; frames in, Polars frames out.

    from forecaster.client import ForecastClient, read_csv

    with ForecastClient("127.0.0.1:50051") as client:
        client.observe(read_csv("mine.csv"))       # columns unique_id, ds, y; safe to repeat
        print(client.forecast(["EWR/temperature"], horizon=24))

Every failure is an exception of `forecaster.errors`. Calls are retried while the server is unavailable, which is
safe, because the server applies nothing twice.
"""

from forecaster.client.asynchronous import AsyncForecastClient
from forecaster.client.forecast_frames import ForecastResult
from forecaster.client.results import LiveScores, ModelInfo, ObserveResult, SeriesInfo, StreamReply
from forecaster.client.synchronous import ForecastClient
from forecaster.client.transport.retry import RetryPolicy
from forecaster.data.schema import read_csv

__all__ = [
    "AsyncForecastClient",
    "ForecastClient",
    "ForecastResult",
    "LiveScores",
    "ModelInfo",
    "ObserveResult",
    "RetryPolicy",
    "SeriesInfo",
    "StreamReply",
    "read_csv",
]
