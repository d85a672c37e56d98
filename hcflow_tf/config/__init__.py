"""The typed schema of a run's YAML config and its strict reading."""

from hcflow_tf.config.models import IRNConfig, ModelConfig, RRDBConfig, SRFlowConfig, SystemConfig
from hcflow_tf.config.schema import (
    FORMAT_VERSION,
    Config,
    DataConfig,
    ImageFolders,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
    dump_config,
    load_config,
    parse_config,
    save_config,
)

__all__ = [
    "FORMAT_VERSION",
    "Config",
    "DataConfig",
    "IRNConfig",
    "ImageFolders",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RRDBConfig",
    "SRFlowConfig",
    "SystemConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "parse_config",
    "save_config",
]
