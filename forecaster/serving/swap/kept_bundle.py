"""The served bundle, kept with the states that it made, so that a start needs no model store.

Knows bundles and storage; knows nothing of registries.
"""

import pathlib
import tempfile

from forecaster.errors import FencedError, ForecasterError, StorageError
from forecaster.model.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle
from forecaster.serving.storage.contract import Activation, Snapshots
from forecaster.serving.swap.verification import verify
from forecaster.serving.telemetry import LOGGER

_FILES = (CONFIG_FILE, WEIGHTS_FILE)


def keep(snapshots: Snapshots, bundle: Bundle) -> None:
    """Keep a bundle that is about to be the active one; what cannot be written is only logged. Raises FencedError."""
    try:
        with tempfile.TemporaryDirectory(prefix="forecaster-") as name:
            bundle.save(pathlib.Path(name))
            files = {file: pathlib.Path(name, file).read_bytes() for file in _FILES}
        if snapshots.kept_bundle(bundle.fingerprint) != files:
            snapshots.keep_bundle(bundle.fingerprint, files)
    except FencedError:
        raise
    except (StorageError, OSError) as error:
        LOGGER.warning("the served bundle is not kept with the states, and a start needs the model store: %s", error)


def kept(snapshots: Snapshots, activation: Activation) -> Bundle | None:
    """Return the bundle of an activation as it was kept, verified; None if it was not, or is damaged."""
    files = snapshots.kept_bundle(activation.fingerprint)
    if files is None:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="forecaster-") as name:
            for file, content in files.items():
                pathlib.Path(name, file).write_bytes(content)
            bundle = Bundle.load(pathlib.Path(name))
        if bundle.fingerprint != activation.fingerprint:
            raise StorageError(f"its fingerprint is {bundle.fingerprint[:12]}")
        verify(bundle)
    except (ForecasterError, OSError) as error:
        LOGGER.warning("version %s as it was kept with its states cannot be used: %s", activation.version, error)
        return None
    return bundle
