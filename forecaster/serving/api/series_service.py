"""What `ForecastService` says of series, and forgetting one; the rest of it is `service`."""

from forecaster.serving.api.handlers import Call
from forecaster.serving.api.messages import (
    MAX_ID_CHARACTERS,
    Violations,
    check_series_id,
    to_duration,
    to_live_scores,
    to_timestamp,
)
from forecaster.serving.api.page_tokens import key_of, token_of
from forecaster.serving.backend import Backend, Served
from forecaster.serving.work.series import SeriesInfo
from forecaster.v1 import forecast_service_pb2 as api
from forecaster.v1 import observation_pb2

_DEFAULT_PAGE, _MAX_PAGE = 100, 1000


class SeriesServicer:
    """The methods that are about series by their names."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetSeries(self, request: api.GetSeriesRequest, call: Call) -> api.GetSeriesResponse:
        """Describe one series."""
        served = self._named(request.model, request.series_id)
        info = await served.batcher.call(lambda: served.engine.describe(request.series_id))
        return api.GetSeriesResponse(series=_series(served, info))

    async def ListSeries(self, request: api.ListSeriesRequest, call: Call) -> api.ListSeriesResponse:
        """List the series by ascending id."""
        served = self._backend.served(request.model)
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        violations = Violations()
        if len(request.prefix) > MAX_ID_CHARACTERS:
            violations.add("prefix", f"{len(request.prefix)} characters, {MAX_ID_CHARACTERS} are allowed")
        violations.raise_if_any()
        listing = f"series of {served.name}" + (f" that begin with {request.prefix!r}" if request.prefix else "")
        after = key_of(listing, request.page_token)
        infos, total = await served.batcher.call(lambda: served.engine.page(after, size + 1, request.prefix))
        return api.ListSeriesResponse(
            series=[_series(served, info) for info in infos[:size]],
            next_page_token=token_of(listing, infos[size - 1].series_id) if len(infos) > size else "",
            total_size=total,
        )

    async def DeleteSeries(self, request: api.DeleteSeriesRequest, call: Call) -> api.DeleteSeriesResponse:
        """Forget a series; what files hold of it is removed right after."""
        served = self._named(request.model, request.series_id)
        await served.batcher.call(lambda: served.engine.delete(request.series_id))
        served.maintenance.hasten()
        return api.DeleteSeriesResponse()

    def _named(self, model: str, series_id: str) -> Served:
        served = self._backend.served(model)
        violations = Violations()
        check_series_id(series_id, "series_id", violations)
        violations.raise_if_any()
        return served


def _series(served: Served, info: SeriesInfo) -> api.Series:
    if info.failure:
        names = (info.series_id, served.name, info.version)
        return api.Series(series_id=names[0], model_name=names[1], model_version=names[2], failure=info.failure)
    attributes = None
    if (held := info.attributes) is not None:
        numbers, categories = held.numbers[0], held.categories[0]
        attributes = observation_pb2.SeriesAttributes(series_id=info.series_id, numbers=numbers, categories=categories)
    return api.Series(
        series_id=info.series_id,
        last_observation_time=to_timestamp(info.clock_us),
        expected_time=to_timestamp(served.bundle.grid.next(info.clock_us)),
        length=info.length,
        observed_length=info.observed_length,
        model_name=served.name,
        model_version=info.version,
        state_age=to_duration(max(int(info.age_seconds * 1e6), 0)),
        live=to_live_scores(info.live),
        attributes=attributes,
    )
