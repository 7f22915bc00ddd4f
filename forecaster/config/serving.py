"""How the server listens, stores and limits."""

from dataclasses import dataclass
from typing import Literal, get_args

from forecaster.config.checks import require, require_model_name, require_types

DurabilityName = Literal["commit", "interval", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """How the server listens, stores and limits.

    Args:
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        metrics_port: the port on which Prometheus is answered, on the same host; 0 takes a free one; left out, none.
        address_file: write `host:port` there once the server answers.
        state: where journal and snapshots are kept: a folder, a sqlite:/// URL or a postgresql:// URL.
        lease_seconds: with PostgreSQL, how long others have to wait after this server has gone silent.
        lease_wait_seconds: with PostgreSQL, how long to wait at the start for a server that has the series; left out,
            until its lease runs out, unless it is renewed.
        models: names of the registered models to serve; left out, the one of `tracking.model`.
        alias: the registered version to serve; when it moves, the server follows.
        poll_seconds: how often the registry is asked where the alias points.
        replay_steps: a new version's states are rebuilt from at least so many of each series' last steps.
        durability: commit (survives a power cut), interval (may lose the last moments on a power cut), none.
        max_batch_observations: most observations in one micro-batch.
        max_queued_observations: refuse more than this many waiting observations.
        max_request_observations: refuse larger requests.
        max_request_memory_bytes: refuse requests while those under way take so much memory, with their answers; small
            ones always go on.
        max_concurrent_rpcs: refuse calls and streams while so many run; health checks do not count.
        max_stream_in_flight: most unanswered messages of one stream; past them it is not read on.
        max_series: refuse new series past this many.
        max_resident_series: keep no more states in memory; the least recently used are read back when needed.
        series_idle_seconds: let go of the states of series that were not observed for so long; their rows stay in the
            history, which it needs, and a series that is observed again comes back; left out, all are kept.
        device: where the states lie and are computed: `cpu`; `cuda` is experimental, and was never run on a GPU.
        snapshot_seconds: how often the states that have changed are written.
        journal_seconds: observations leave the journal after this time, if no snapshot needs them.
        history: whether they go to Parquet files beside the journal, or are forgotten; left out, they go there, unless
            nothing is durable.
        accept_loss_through: go on although records up to this one, which was acknowledged, are not all there any more;
            the error that asks for it names the record.
        max_ahead_seconds: refuse observations of a time further in the future, which is a mistake.
        late_steps: take a value of a time that was missing no later than so many steps, unless it is said to correct;
            left out, what the model remembers, two seasons at least.
        drain_seconds: time for requests under way at shutdown; those that have not ended by then are cut off.
        balancer_wait_seconds: time between NOT_SERVING and refusing requests at shutdown.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    metrics_port: int | None = None
    address_file: str | None = None
    state: str = "forecaster-state"
    lease_seconds: float = 15.0
    lease_wait_seconds: float | None = None
    models: tuple[str, ...] = ()
    alias: str = "champion"
    poll_seconds: float = 10.0
    replay_steps: int = 1000
    durability: DurabilityName = "commit"
    max_batch_observations: int = 65_536
    max_queued_observations: int = 262_144
    max_request_observations: int = 65_536
    max_request_memory_bytes: int = 268_435_456
    max_concurrent_rpcs: int = 1024
    max_stream_in_flight: int = 64
    max_series: int = 10_000_000
    max_resident_series: int = 250_000
    series_idle_seconds: float | None = None
    device: str = "cpu"
    snapshot_seconds: float = 60.0
    journal_seconds: float = 604_800.0
    history: bool | None = None
    accept_loss_through: int | None = None
    max_ahead_seconds: float = 86_400.0
    late_steps: int | None = None
    drain_seconds: float = 10.0
    balancer_wait_seconds: float = 0.0

    def __post_init__(self) -> None:
        require_types(self, "serving")
        require(0 <= self.port <= 65_535, "serving.port", self.port, "0 to 65535")
        asked = self.metrics_port
        require(asked is None or 0 <= asked <= 65_535, "serving.metrics_port", asked, "0 to 65535")
        choices = get_args(DurabilityName)
        require(self.durability in choices, "serving.durability", self.durability, ", ".join(choices))
        limits = ("max_batch_observations", "max_queued_observations", "max_request_observations", "max_series")
        for name in (
            *limits,
            "max_request_memory_bytes",
            "max_concurrent_rpcs",
            "max_stream_in_flight",
            "max_resident_series",
            "replay_steps",
        ):
            require(getattr(self, name) >= 1, f"serving.{name}", getattr(self, name), "1 or more")
        for name in ("poll_seconds", "snapshot_seconds", "lease_seconds"):
            require(getattr(self, name) > 0, f"serving.{name}", getattr(self, name), "more than 0 seconds")
        for name in self.models:
            require_model_name(name, "serving.models")
        require(len(set(self.models)) == len(self.models), "serving.models", self.models, "different names")
        for name in ("journal_seconds", "drain_seconds", "balancer_wait_seconds", "max_ahead_seconds"):
            require(getattr(self, name) >= 0, f"serving.{name}", getattr(self, name), "0 or more seconds")
        wait = self.lease_wait_seconds
        require(wait is None or wait >= 0, "serving.lease_wait_seconds", wait, "0 or more seconds")
        idle = self.series_idle_seconds
        require(idle is None or idle > 0, "serving.series_idle_seconds", idle, "more than 0 seconds")
        late = self.late_steps
        require(late is None or late >= 0, "serving.late_steps", late, "0 or more")
        needs = "left out where there is no history (serving.history, serving.durability)"
        ok = idle is None or (self.keeps_history and self.durability != "none")
        require(ok, "serving.series_idle_seconds", idle, needs)
        most = self.max_queued_observations
        ok = self.max_request_observations <= most
        require(ok, "serving.max_request_observations", self.max_request_observations, f"at most {most}, the queue's")
        least = self.max_batch_observations
        ok = self.max_resident_series >= least
        require(ok, "serving.max_resident_series", self.max_resident_series, f"{least} or more, a batch of series")

    @property
    def keeps_history(self) -> bool:
        """Whether observations that leave the journal are kept."""
        return self.history if self.history is not None else self.durability != "none"
