"""Whether a journal ends where it was known to end, and what is said if it does not.

Knows nothing of files or databases.
"""

import logging
from collections.abc import Callable

from forecaster.config import DurabilityName
from forecaster.errors import StorageError

_LOG = logging.getLogger(__name__)


def check_end(
    place: str, end: Callable[[], int], known: int, *, durability: DurabilityName, accepted: int | None
) -> None:
    """Raise StorageError if a journal ends before the last record that is known to have been acknowledged.

    Args:
        place: the journal's, for the message.
        end: returns the last sequence that is there; called only if something is known.
        known: the last acknowledged sequence, as another place has it; 0 if none has.
        durability: under `interval`, whose promise ends with a power cut, the loss is only logged.
        accepted: whoever starts the server goes on without records up to this one, if it is the one that is known.
    """
    if known == 0 or (last := end()) >= known:
        return
    lost = f"{place} ends with record {last}, but records up to {known} were acknowledged: its end was damaged or lost"
    if accepted == known or durability != "commit":
        _LOG.warning("%s; records %d to %d are gone, and clients that send them again fill them", lost, last + 1, known)
        return
    raise StorageError(
        f"{lost}. Restore it from a copy, or go on without records {last + 1} to {known} by"
        f" --serving.accept_loss_through {known}: clients that send them again fill them"
    )
