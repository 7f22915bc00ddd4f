"""A server as a child process: start it, kill it, start it again, stop it.

Knows the `forecaster serve` command; knows nothing of what is asked of the server.
"""

import pathlib
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from forecaster.errors import ForecasterError, UnavailableError

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.02


class ServerProcess:
    """One server, whose process may end and be started again at the same address.

    Args:
        config: the YAML file it is started with.
        folder: where its log (`server.log`) and its address (`server-address`) go.
    """

    def __init__(self, config: pathlib.Path, folder: pathlib.Path) -> None:
        self._config = config
        self._log, self._address_file = folder / "server.log", folder / "server-address"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> float:
        """Start the process and wait until it serves; return the seconds that took.

        Raises UnavailableError, with what the server said, if it ends instead.
        """
        began = time.monotonic()
        self._address_file.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        with self._log.open("ab") as log:
            said_before = log.tell()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "forecaster", "serve", "--config", str(self._config)),
                    *(f"--serving.port={port}", f"--serving.address_file={self._address_file}"),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        while not self._address_file.exists():
            if self._process.poll() is not None or time.monotonic() - began > _START_SECONDS:
                self.kill()
                said = self._log.read_bytes()[said_before:].decode(errors="replace").strip().splitlines()
                last = said[-1].removeprefix("error: ") if said else "it said nothing"
                raise UnavailableError(f"the server did not start: {last} ({self._log} has its log)")
            time.sleep(_POLL_SECONDS)
        self.address = self._address_file.read_text().strip()
        return time.monotonic() - began

    def kill(self) -> None:
        """End the process as SIGKILL does: at once, whatever it is doing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """Ask the process to end and wait for it; raises ForecasterError if it does not end well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ForecasterError(f"the server did not stop within {_STOP_SECONDS:.0f} s ({self._log})") from error
        if status != 0:
            raise ForecasterError(f"the server ended with status {status} ({self._log} has its log)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
