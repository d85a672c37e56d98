"""The typed schema of a run's YAML config and its strict reading."""

from hcflow_tf.config.reading import dump_config, load_config, parse_config, save_config
from hcflow_tf.config.schema import (
    FORMAT_VERSION,
    Config,
    DataConfig,
    Degradation,
    ImageFolders,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from hcflow_tf.config.systems.base import SystemConfig
from hcflow_tf.config.systems.hcflow import ModelConfig
from hcflow_tf.config.systems.irn import IRNConfig
from hcflow_tf.config.systems.rrdb import RRDBConfig
from hcflow_tf.config.systems.srflow import SRFlowConfig

__all__ = [
    "FORMAT_VERSION",
    "Config",
    "DataConfig",
    "Degradation",
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
