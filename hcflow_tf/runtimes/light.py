"""Shipped models at temperature 0 without TensorFlow, whose import alone takes longer than a small picture.

Beside a shipped model's weights lie ONNX files of its decoder at temperature 0 and, of a rescaling model, of its encoder's LR
image. ONNX Runtime starts at once and takes 0.9 to 1.8 times TensorFlow's processor time per pixel (docs/performance.md):
`hcflow upscale` and `downscale` take it unless there are many. TensorFlow starts only when more is asked: samples, the latents
of an image, its likelihood.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Iterable

from hcflow_tf.images.images import ImageError, read_header
from hcflow_tf.runtimes.engines import EngineRuntime, Facts
from hcflow_tf.runtimes.exported import LR
from hcflow_tf.runtimes.onnx import OnnxRuntime
from hcflow_tf.support.download import digest
from hcflow_tf.support.files import encoder_path, write_atomically
from hcflow_tf.weights.shipped import ABOUT_FILE, DIRECTORY, shipped_model

FILE, KEY = "temperature_0.onnx", "temperature_0"
"""The decoder, and what about.json says of it."""
MAX_LR_PIXELS = 500_000
"""Of all pictures together: with more, starting TensorFlow may pay."""
GPU = pathlib.Path("/dev/nvidia0")


def light_runtime(name: str | os.PathLike) -> EngineRuntime | None:
    """The shipped model of this name; None if it is no such, or TensorFlow is to run it: a GPU, or no ONNX Runtime.

    Raises:
      HCFlowError: its files are not those that were shipped.
    """
    directory = shipped_model(name)
    if directory is None or GPU.exists() or importlib.util.find_spec("onnxruntime") is None:
        return None
    facts = json.loads((directory / ABOUT_FILE).read_text(encoding="utf-8")).get(KEY)
    if not facts:
        return None
    decoder = OnnxRuntime(directory / FILE)
    can = dict.fromkeys(("can_encode", "can_downscale", "has_likelihood"), True)
    return EngineRuntime(str(name), decoder, Facts.from_json({"scale": decoder.scale, **can, **facts}))


def count_pixels(paths: Iterable[os.PathLike], limit: int, *, pixels_each: int = 1) -> int:
    """LR pixels of these pictures, counted until they are more than the limit; one that cannot be read has none.

    Args:
      paths: of the pictures.
      limit: of LR pixels together.
      pixels_each: of a picture for one LR pixel: 1, or scale^2 of HR images.
    """
    total = 0
    for path in paths:
        with contextlib.suppress(ImageError):
            header = read_header(path)
            total += header.width * header.height // pixels_each
        if total > limit:
            break
    return total


def write_light_files(name: str) -> None:
    """Writes the ONNX files of a shipped model and names them in its about.json, for maintainers; see CONTRIBUTING.md."""
    import argparse

    import tensorflow as tf

    from hcflow_tf.models.complexity import measure
    from hcflow_tf.models.folded import InferenceModel
    from hcflow_tf.runtimes.onnx_export import convert, store_in_float16
    from hcflow_tf.runtimes.tensor_functions import decoder
    from hcflow_tf.weights.store import load_model

    directory = DIRECTORY / name
    model = load_model(name)
    folded, options = InferenceModel(model), argparse.Namespace(opset=18, precision="float32", layout="nhwc")
    functions = {directory / FILE: decoder(folded, None, latents=False)}
    if model.config.makes_lr:
        image = tf.TensorSpec([None, None, None, 3], name="hr")
        encoder = tf.function(lambda hr: {LR: folded.downscale(hr)}, autograph=False).get_concrete_function(image)
        functions[encoder_path(directory / FILE)] = encoder
    for path, function in functions.items():
        converted = convert(function, folded, options)
        # The kernels of feature extractors, which are rounded to float16 already (`shipped.ship`).
        store_in_float16(converted.graph, only_exactly=True)
        write_atomically(path, converted.SerializeToString())
    cost = measure(model.config, {weight: variable.shape for weight, variable in model.named_weights().items()})
    about = json.loads((directory / ABOUT_FILE).read_text(encoding="utf-8"))
    about["sha256"] |= {path.name: digest(path) for path in functions}
    about[KEY] = {
        "makes_lr": model.config.makes_lr,
        "latents": [list(latent) for latent in model.latents],
        "overlap": cost.overlap,
        "decode_bytes": cost.decode_bytes,
    }
    write_atomically(directory / ABOUT_FILE, (json.dumps(about, indent=1) + "\n").encode())
