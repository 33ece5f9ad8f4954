"""A YAML file becomes a RunConfig, every mistake reported at once."""

from ganpo_core.config.load import load_run
from ganpo_core.config.run import AdversaryPlan, RunConfig
from ganpo_core.config.sections import (
    AdversaryConfig,
    DataConfig,
    DataSource,
    LoraConfig,
    ModelConfig,
    TrainingConfig,
)

__all__ = [
    "AdversaryConfig",
    "AdversaryPlan",
    "DataConfig",
    "DataSource",
    "LoraConfig",
    "ModelConfig",
    "RunConfig",
    "TrainingConfig",
    "load_run",
]
