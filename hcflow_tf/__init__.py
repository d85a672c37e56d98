"""HCFlow in TensorFlow: one invertible network for image super-resolution and rescaling."""

from __future__ import annotations

import importlib
from typing import Any

from hcflow_tf.support.errors import HCFlowError, UsageError

__version__ = "0.1.0"

_LAZY = {
    "Config": "hcflow_tf.config",
    "load_config": "hcflow_tf.config",
    "imresize": "hcflow_tf.data.resize",
    "read_image": "hcflow_tf.images.images",
    "HCFlow": "hcflow_tf.models.hcflow",
    "list_models": "hcflow_tf.weights.shipped",
    "load_model": "hcflow_tf.weights.store",
    "save_model": "hcflow_tf.weights.store",
}

__all__ = ["HCFlowError", "UsageError", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `--help` and config errors do not wait for TensorFlow."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
