"""All of the configuration: one YAML file."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from forecaster.config.data import DataConfig
from forecaster.config.ingest import IngestConfig
from forecaster.config.model import ModelConfig
from forecaster.config.promotion import BacktestConfig, PromotionConfig
from forecaster.config.rules import require_consistent
from forecaster.config.schedule import ScheduleConfig
from forecaster.config.serving import ServingConfig
from forecaster.config.training import TrackingConfig, TrainerConfig, TrainingConfig
from forecaster.config.tuning import TuningConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it: one YAML file."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    backtest: BacktestConfig = field(default_factory=BacktestConfig)
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        require_consistent(self)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain dicts, lists and scalars, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result
