"""The configuration of data, model, training, tracking, serving and pipelines: frozen values, validated once.

One YAML file describes all of it; `forecaster.cli` reads the file and passes these objects on.
This package knows nothing of files, of the command line or of the environment.
"""

from forecaster.config.checks import require
from forecaster.config.config import Config, to_dict
from forecaster.config.data import DataConfig
from forecaster.config.frequency import default_season_lengths, parse_frequency
from forecaster.config.ingest import IngestConfig
from forecaster.config.model import Cell, ModelConfig
from forecaster.config.promotion import BacktestConfig, PromotionConfig
from forecaster.config.schedule import ScheduleConfig
from forecaster.config.serving import DurabilityName, ServingConfig
from forecaster.config.training import TrackingConfig, TrainerConfig, TrainingConfig
from forecaster.config.tuning import TuningConfig

__all__ = [
    "BacktestConfig",
    "Cell",
    "Config",
    "DataConfig",
    "DurabilityName",
    "IngestConfig",
    "ModelConfig",
    "PromotionConfig",
    "ScheduleConfig",
    "ServingConfig",
    "TrackingConfig",
    "TrainerConfig",
    "TrainingConfig",
    "TuningConfig",
    "default_season_lengths",
    "parse_frequency",
    "require",
    "to_dict",
]
