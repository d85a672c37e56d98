"""Writes a .tflite file: the decoder, signature "decode"; for rescaling models also the encoder, NAME_encoder.tflite.

Only built-in operators, so any LiteRT runs it on the CPU; with --lr-size the GPU delegate can take it too. Inputs lr
[B, h, w, 3] float32 RGB in [0, 1] and latents_1 to latents_L, already scaled by the temperature (none with
--temperature 0); output hr, not clipped. docs/export.md shows it on Android and iOS.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import tempfile
from typing import TYPE_CHECKING

from hcflow_tf.runtimes import export_frame as frame
from hcflow_tf.runtimes.tflite import with_facts
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import write_atomically

if TYPE_CHECKING:
    import tensorflow as tf

    from hcflow_tf.models.trained_model import TrainedModel

TOLERANCE = 1e-4
"""float32: largest error as a share of the largest value."""

ALLOWED_LOSS = {"float16": 0.02, "int8": 0.1}
"""dB of Y-PSNR."""

DEFAULT_SIZE = (64, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    frame.add_arguments(parser, "file to write, NAME.tflite")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--lr-size", type=frame.lr_size, metavar="HxW", help="fixed LR size, batch of one (default 64x64)")
    size.add_argument("--dynamic", action="store_true", help="any batch and size; for the CPU only")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the weights; int8: the feature extractors also compute in int8, the flow in float32 (default float32)",
    )
    parser.add_argument("--temperature", type=float, choices=(0.0,), help="0: leave the latents out")


def run(args: argparse.Namespace) -> None:
    """Exports, checks, writes."""
    if args.output.suffix != ".tflite":
        raise UsageError(f"--output {args.output}: the name must end in .tflite")
    target, *encoder_target = frame.decoder_files(args)
    model = frame.load(args)

    from hcflow_tf.models.folded import InferenceModel
    from hcflow_tf.runtimes.tensor_functions import decoder, encoder

    size = None if args.dynamic else args.lr_size or DEFAULT_SIZE
    multiple = model.flow.lr_multiple
    if size and any(side % multiple for side in size):
        raise UsageError(f"--lr-size {size[0]}x{size[1]}: this model takes heights and widths that are divisible by {multiple}")
    folded = InferenceModel(model, lite=True)
    contents = {target: convert(decoder(folded, size, latents=args.temperature is None), "decode", args.precision)}
    for path in encoder_target:
        contents[path] = convert(encoder(folded, size), "encode", args.precision)
    if size:
        for content in contents.values():
            check_gpu_compatibility(content)
    contents[target] = with_facts(contents[target], folded)
    with tempfile.TemporaryDirectory(prefix="hcflow-") as folder:
        for path, content in contents.items():
            (pathlib.Path(folder) / path.name).write_bytes(content)
        check(model, pathlib.Path(folder) / args.output.name, args.precision, size)
    for path, content in contents.items():
        write_atomically(path, content)
        print(f"{path}: {len(content) / 2**20:.1f} MiB")


def convert(function: tf.types.experimental.ConcreteFunction, signature: str, precision: str) -> bytes:
    """The function as a .tflite file with one signature."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="hcflow-") as folder, contextlib.redirect_stdout(io.StringIO()):
        module = tf.Module()
        module.function = function
        tf.saved_model.save(module, folder, signatures={signature: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[signature])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    return quantize(content) if precision == "int8" else content


def quantize(content: bytes) -> bytes:
    """Quantises the weights to int8 per channel.

    What makes the conditions computes in int8, with activations quantised as they come (dynamic range). The coupling
    networks compute in float32 from int8 weights; the linear maps and the Gaussians stay float32, because the flow
    amplifies their errors.

    Raises:
      HCFlowError: ai-edge-quantizer is not installed.
    """
    from hcflow_tf.bijectors.base import CONDITION_SCOPE, NETWORK_SCOPE

    try:
        from ai_edge_quantizer.qtyping import TFLOperationName
        from ai_edge_quantizer.quantizer import Quantizer
    except ImportError as error:
        raise HCFlowError("--precision int8 needs ai-edge-quantizer: pip install hcflow_tf[export]") from error
    quantizer = Quantizer(bytearray(content))
    quantizer.add_weight_only_config(f"/{NETWORK_SCOPE}(_[0-9]+)?/", TFLOperationName.CONV_2D, num_bits=8)
    quantizer.add_dynamic_config(f"/{CONDITION_SCOPE}/", TFLOperationName.CONV_2D, num_bits=8)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return bytes(quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def check_gpu_compatibility(content: bytes) -> None:
    """Asks TensorFlow's analyzer whether the GPU delegate takes every operation.

    Raises:
      HCFlowError: it does not; names what the analyzer objects to.
    """
    import tensorflow as tf

    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        tf.lite.experimental.Analyzer.analyze(model_content=content, gpu_compatibility=True)
    lines = report.getvalue().splitlines()
    if not any("looks compatible with GPU delegate" in line for line in lines):
        objections = [line.strip() for line in lines if "GPU" in line]
        raise HCFlowError(f"the export is not compatible with the GPU delegate: {'; '.join(objections[:3])}")


def check(model: TrainedModel, path: pathlib.Path, precision: str, size: tuple[int, int] | None) -> None:
    """Compares the file with the model, as `hcflow upscale` would run it.

    Raises:
      HCFlowError: they differ by more than the precision allows.
    """
    from hcflow_tf.runtimes.tflite import TFLiteRuntime

    runtime = TFLiteRuntime(path)
    temperature = frame.TEMPERATURE if runtime.latent_channels and precision == "float32" else 0.0
    images = list(frame.check_images(model, size or frame.CHECK_LR_SIZE, temperature))
    if precision == "float32":
        print(f"largest error: {frame.check_runtime(runtime, images, TOLERANCE):.1e} of the largest value")
        return
    for image in images:
        decoded = runtime.decode(image.lr, image.latents if runtime.latent_channels else ())
        loss = frame.check_psnr(f"decode of a {image.name}", decoded, image.decoded, image.hr, ALLOWED_LOSS[precision])
        print(f"{image.name}: {loss:+.4f} dB of Y-PSNR lost")
