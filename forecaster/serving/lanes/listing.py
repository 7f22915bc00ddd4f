"""One series, or a page of them, as it is shown, whichever lane it belongs to."""

import dataclasses
from itertools import islice

from forecaster.serving.lanes.description import describe, unknown
from forecaster.serving.lanes.lanes import Lanes
from forecaster.serving.storage.contract import Journal
from forecaster.serving.work.series import SeriesInfo


def describe_one(lanes: Lanes, journal: Journal, series_id: str) -> SeriesInfo:
    """Describe one series, with its static covariates; raises SeriesNotFoundError."""
    lane = lanes.of(series_id)
    if not (info := describe(lane, [series_id])):
        raise unknown(lane, [series_id])[0]
    held = journal.attributes([series_id])
    return dataclasses.replace(info[series_id], attributes=held if len(held) else None)


def page(lanes: Lanes, after: str, size: int, prefix: str = "") -> list[SeriesInfo]:
    """Return up to `size` series with a prefix, behind `after` by ascending id."""
    names = list(islice(lanes.page(after, prefix), size))
    found: dict[str, SeriesInfo] = {}
    for lane in lanes:
        found |= describe(lane, [name for name in names if lanes.of(name) is lane])
    return [found[name] for name in names if name in found]
