"""Opens what `--model` names: a model directory, the bicubic baseline, or an exported SavedModel, TFLite or ONNX file."""

from __future__ import annotations

import os
import pathlib

from hcflow_tf.runtimes.bicubic import BICUBIC, BicubicRuntime
from hcflow_tf.runtimes.engines import SUFFIXES, engine_runtime, fastest_runtime, open_engine_file
from hcflow_tf.runtimes.light import GPU, MAX_LR_PIXELS, light_runtime
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import expand_user, is_file, is_folder
from hcflow_tf.weights.store import CONFIG_FILE, find_model

MANY_LR_PIXELS = 4_000_000
"""From here on measuring which engine is the fastest pays."""


def open_runtime(
    model: str | os.PathLike,
    *,
    scale: int | None = None,
    guard: bool = True,
    engine: str = "auto",
    precision: str = "float32",
    pixels: int | None = None,
    refine: int = 0,
) -> Runtime:
    """Opens what `--model` names.

    Args:
      model: "bicubic", a model directory, the name of a shipped model, a SavedModel directory (or the directory of its
        versions, of which the highest is taken), a .tflite or an .onnx file.
      scale: the scale that is wanted; None takes the model's own, 4 for bicubic.
      guard: see `KerasRuntime`; an exported file carries its guard, or none.
      engine: what computes (`runtimes.engines.PRECISIONS`); "auto": an exported file in its own runtime, a model directory in
        Keras or what else suits the precision and the number of pixels.
      precision: of decoding: "float32", "bfloat16" or "int8".
      pixels: LR pixels that are to be decoded at temperature 0, if known: a shipped model does few without TensorFlow
        (`runtimes.light`), and many are worth a measurement (`runtimes.engines.fastest`).
      refine: steps in which each LR image that it makes is fitted to its HR image (`models.refinement`).

    Raises:
      UsageError: its scale is another, or there is no such engine or precision for it.
      HCFlowError: it is none of these, or it cannot be read.
    """
    name, path = str(model), expand_user(model)
    if refine:
        runtime: Runtime = _open_refining(name, engine, precision, refine)
    elif name == BICUBIC:
        _check_plain(name, engine, precision)
        return BicubicRuntime(scale or 4)
    else:
        runtime = _open(name, path, guard, engine, precision, pixels)
    if scale not in (None, runtime.scale):
        raise UsageError(f"--scale {scale} does not fit {name}, which is a model for x{runtime.scale}")
    return runtime


def _open_refining(name: str, engine: str, precision: str, steps: int) -> Runtime:
    if not is_model_directory(name):
        raise UsageError(f"--refine {steps}: takes gradients, which {name} has none of; give a model directory or name")
    if engine not in ("auto", "keras") or precision != "float32":
        raise UsageError(f"--refine {steps}: takes gradients, which only --runtime keras with --precision float32 has")
    find_model(name)  # says that there is none before TensorFlow is imported
    from hcflow_tf.runtimes.refining import RefiningRuntime

    return RefiningRuntime(name, steps)


def _open(name: str, path: pathlib.Path, guard: bool, engine: str, precision: str, pixels: int | None) -> Runtime:
    if path.suffix in SUFFIXES.values():
        if not is_file(path):
            raise HCFlowError(f"no model at {name}: there is no such file")
        return open_engine_file(path, engine, precision)
    if saved_model := _find_saved_model(path):
        from hcflow_tf.runtimes.saved_model import SavedModelRuntime

        _check_plain(name, engine, precision)
        return SavedModelRuntime(saved_model)
    if is_file(path):
        hint = "run `hcflow convert` on it first" if path.suffix == ".pth" else "a model directory holds config.yaml and weights"
        raise HCFlowError(f"{name} is not a model directory, a SavedModel directory, a .tflite or an .onnx file: {hint}")
    if engine == "auto" and precision == "float32" and pixels is not None:
        if pixels <= MAX_LR_PIXELS and (light := light_runtime(name)):
            return light
        if pixels >= MANY_LR_PIXELS and not GPU.exists():
            return fastest_runtime(name, guard=guard)
    find_model(name)  # says that there is none before TensorFlow is imported
    return engine_runtime(name, engine, precision, guard=guard)


def _check_plain(name: str, engine: str, precision: str) -> None:
    for option, value, only in (("--runtime", engine, "auto"), ("--precision", precision, "float32")):
        if value != only:
            raise UsageError(f"{option} {value}: is for model directories, .onnx and .tflite files, {name} has only {only}")


def is_model_directory(model: str | os.PathLike) -> bool:
    """Whether `--model` names weights of our own (or nothing at all), not the baseline or an exported file."""
    path = expand_user(model)
    return str(model) != BICUBIC and not is_file(path) and path.suffix not in SUFFIXES.values() and not _find_saved_model(path)


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
