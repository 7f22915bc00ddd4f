"""A storage whose disk is full when a test wants it to be."""

from forecaster.errors import StorageError
from forecaster.serving.storage.records import Record
from forecaster.serving.storage.volatile import VolatileJournal, VolatileStorage


class FailingJournal(VolatileJournal):
    """A journal whose disk is full while `full`, and behind so many records."""

    full = False
    most = 2**62

    def append(self, *records: Record) -> int:
        if self.full or self.last_sequence() >= self.most:
            raise StorageError("the disk is full")
        return super().append(*records)


class FailingStorage(VolatileStorage):
    """Storage with such a journal."""

    def __init__(self) -> None:
        super().__init__()
        self._failing = FailingJournal(self.snapshots)

    @property
    def journal(self) -> FailingJournal:
        return self._failing
