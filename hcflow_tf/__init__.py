"""HCFlow in TensorFlow: one invertible network for image super-resolution and rescaling."""

from __future__ import annotations

import importlib
from typing import Any

from hcflow_tf.errors import HCFlowError, UsageError
from hcflow_tf.version import __version__

_LAZY = {
    "Config": "hcflow_tf.config",
    "load_config": "hcflow_tf.config",
    "imresize": "hcflow_tf.data.resize",
    "HCFlow": "hcflow_tf.model",
    "list_models": "hcflow_tf.shipped",
    "load_model": "hcflow_tf.store",
    "save_model": "hcflow_tf.store",
}

__all__ = ["HCFlowError", "UsageError", "__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `--help` and config errors do not wait for TensorFlow."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
