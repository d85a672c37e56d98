"""The systems: which class makes the model of a config. Only the class that is asked for is imported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hcflow_tf.config import SystemConfig

if TYPE_CHECKING:
    from hcflow_tf.models.trained_model import TrainedModel

_CLASSES = {
    "hcflow": ("hcflow_tf.models.hcflow", "HCFlow"),
    "irn": ("hcflow_tf.models.irn", "IRN"),
    "rrdb": ("hcflow_tf.models.rrdb", "RRDB"),
    "srflow": ("hcflow_tf.models.srflow", "SRFlow"),
}
"""System -> module and class; `config.models.SECTIONS` has the sections, `weights.released.SYSTEMS` the released names."""


def model_class(config: SystemConfig) -> type[TrainedModel]:
    """The class of such a model."""
    module, name = _CLASSES[config.system]
    return getattr(importlib.import_module(module), name)


def make_model(config: SystemConfig, **options: Any) -> TrainedModel:
    """A model with fresh weights; options as `TrainedModel` takes them."""
    return model_class(config)(config, **options)
