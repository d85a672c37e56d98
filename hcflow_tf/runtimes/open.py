"""Opens what `--model` names: a model directory, the bicubic baseline, or an exported SavedModel, TFLite or ONNX file."""

from __future__ import annotations

import importlib
import os
import pathlib

from hcflow_tf.runtimes.bicubic import BICUBIC, BicubicRuntime
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.light import light_runtime
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import expand_user, is_file, is_folder
from hcflow_tf.weights.store import CONFIG_FILE

_EXPORTED = {
    ".tflite": ("hcflow_tf.runtimes.tflite", "TFLiteRuntime"),
    ".onnx": ("hcflow_tf.runtimes.onnx", "OnnxRuntime"),
}


def open_runtime(model: str | os.PathLike, *, scale: int | None = None, guard: bool = True, light: bool = False) -> Runtime:
    """Opens what `--model` names.

    Args:
      model: "bicubic", a model directory, the name of a shipped model, a SavedModel directory (or the directory of its
        versions, of which the highest is taken), a .tflite or an .onnx file.
      scale: the scale that is wanted; None takes the model's own, 4 for bicubic.
      guard: see `KerasRuntime`; an exported file carries its guard, or none.
      light: run a shipped model without TensorFlow where that can be (`runtimes.light`): for few pixels at temperature 0.

    Raises:
      HCFlowError: it is none of these, it cannot be read, or its scale is another.
    """
    name, path = str(model), expand_user(model)
    if name == BICUBIC:
        return BicubicRuntime(scale or 4)
    runtime = (light_runtime(name) if light else None) or _open(name, path, guard)
    if scale not in (None, runtime.scale):
        raise UsageError(f"--scale {scale} does not fit {name}, which is a model for x{runtime.scale}")
    return runtime


def _open(name: str, path: pathlib.Path, guard: bool) -> Runtime:
    if path.suffix in _EXPORTED:
        if not is_file(path):
            raise HCFlowError(f"no model at {name}: there is no such file")
        return _load(*_EXPORTED[path.suffix], path)
    if saved_model := _find_saved_model(path):
        return _load("hcflow_tf.runtimes.saved_model", "SavedModelRuntime", saved_model)
    if is_file(path):
        hint = "run `hcflow convert` on it first" if path.suffix == ".pth" else "a model directory holds config.yaml and weights"
        raise HCFlowError(f"{name} is not a model directory, a SavedModel directory, a .tflite or an .onnx file: {hint}")
    return KerasRuntime(name, guard=guard)


def is_model_directory(model: str | os.PathLike) -> bool:
    """Whether `--model` names weights of our own (or nothing at all), not the baseline or an exported file."""
    path = expand_user(model)
    return str(model) != BICUBIC and not is_file(path) and path.suffix not in _EXPORTED and not _find_saved_model(path)


def _find_saved_model(directory: pathlib.Path) -> pathlib.Path | None:
    """The directory itself or, as TF Serving lays them out, its highest version, if it is a SavedModel.

    A model directory stays one, also if it was exported into itself.
    """
    if not is_folder(directory) or is_file(directory / CONFIG_FILE):
        return None
    try:
        versions = sorted((entry for entry in directory.iterdir() if entry.name.isdecimal()), key=lambda entry: int(entry.name))
    except OSError as error:
        raise HCFlowError(f"{directory}: {error.strerror}") from error
    for candidate in (directory, *reversed(versions)):
        if is_file(candidate / "saved_model.pb"):
            return candidate
    return None


def _load(module: str, name: str, path: pathlib.Path) -> Runtime:
    return getattr(importlib.import_module(module), name)(path)
