"""Writes an .onnx file: the decoder; for rescaling models also the encoder, NAME_encoder.onnx.

Inputs lr [B, h, w, 3] (or [B, 3, h, w]) float32 RGB in [0, 1] and latents_1 to latents_L, already scaled by the
temperature; output hr, not clipped. Batch, height and width are free. The metadata say scale, task, layout, colour
order, value range and version. With --precision float16 the weights are stored in half the bytes; what is computed stays
float32.
"""

from __future__ import annotations

import argparse
import fractions
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

import hcflow_tf
from hcflow_tf.runtimes import export_frame as frame
from hcflow_tf.runtimes.exported import HR, LR, latent_names
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.files import write_atomically
from hcflow_tf.support.latents import Latent

if TYPE_CHECKING:
    import onnx
    import tensorflow as tf
    import tf2onnx

    from hcflow_tf.models.folded import InferenceModel
    from hcflow_tf.models.trained_model import TrainedModel
    from hcflow_tf.runtimes.onnx import OnnxRuntime

TOLERANCE = 1e-4
"""Largest error as a share of the largest value."""

ALLOWED_LOSS = 0.02
"""float16: dB of Y-PSNR."""

SMALL = 64
"""Weights of fewer values stay float32 in a float16 file: they take no room."""

OPSETS = range(13, 19)
"""Those that tf2onnx writes and that have every operation; 13 is from 2020."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    frame.add_arguments(parser, "file to write, NAME.onnx")
    parser.add_argument("--opset", type=int, choices=OPSETS, default=OPSETS[-1], help="ONNX operator set (default 18)")
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help="of the weights (default float32)")
    parser.add_argument("--layout", choices=("nhwc", "nchw"), default="nhwc", help="of images and latents (default nhwc)")


def run(args: argparse.Namespace) -> None:
    """Exports, checks, writes."""
    if args.output.suffix != ".onnx":
        raise UsageError(f"--output {args.output}: the name must end in .onnx")
    target, *encoder_target = frame.decoder_files(args)
    model = frame.load(args)

    from hcflow_tf.models.folded import InferenceModel
    from hcflow_tf.runtimes.onnx import OnnxRuntime
    from hcflow_tf.runtimes.tensor_functions import decoder, encoder

    folded = InferenceModel(model)
    contents = {target: convert(decoder(folded, None, latents=True), folded, args).SerializeToString()}
    for path in encoder_target:
        contents[path] = convert(encoder(folded, None), folded, args).SerializeToString()
    with tempfile.TemporaryDirectory(prefix="hcflow-") as folder:
        for path, content in contents.items():
            (pathlib.Path(folder) / path.name).write_bytes(content)
        check(model, OnnxRuntime(pathlib.Path(folder) / args.output.name), args.precision)
    for path, content in contents.items():
        write_atomically(path, content)
        print(f"{path}: {len(content) / 2**20:.1f} MiB")


def check(model: TrainedModel, runtime: OnnxRuntime, precision: str) -> None:
    """Compares the file with the model.

    Raises:
      HCFlowError: they differ by more than the precision allows.
    """
    if precision == "float32":
        error = frame.check_runtime(runtime, list(frame.check_images(model)), TOLERANCE)
        print(f"largest error: {error:.1e} of the largest value")
        return
    for image in frame.check_images(model, temperature=0.0):
        decoded = runtime.decode(image.lr, image.latents)
        loss = frame.check_psnr(f"decode of a {image.name}", decoded, image.decoded, image.hr, ALLOWED_LOSS)
        print(f"{image.name}: {loss:+.4f} dB of Y-PSNR lost")


def convert(
    function: tf.types.experimental.ConcreteFunction, folded: InferenceModel, args: argparse.Namespace
) -> onnx.ModelProto:
    """The function as an ONNX model that passes the full check.

    Raises:
      HCFlowError: tf2onnx is not installed, or the model does not pass.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise HCFlowError(f"needs {error.name}: pip install hcflow_tf[export]") from error
    frozen = convert_variables_to_constants_v2(function)
    inputs = {tensor.name: tensor.name.split(":")[0] for tensor in frozen.inputs}
    outputs = dict(zip((tensor.name for tensor in frozen.outputs), sorted(function.structured_outputs), strict=True))
    nchw = args.layout == "nchw"
    file, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=list(inputs),
        output_names=list(outputs),
        opset=args.opset,
        inputs_as_nchw=list(inputs) if nchw else None,
        outputs_as_nchw=list(outputs) if nchw else None,
        custom_op_handlers={"MirrorPad": (_repeat_border, ["Pad"])},
        tensors_to_rename={**inputs, **outputs},
    )
    if args.precision == "float16":
        store_in_float16(file.graph)
    in_order(file.graph)
    name_dimensions(file, folded, nchw=nchw)
    names = latent_names(len(folded.latents))
    of_file = [z for name, z in zip(names, folded.latents, strict=True) if name in (*inputs.values(), *outputs.values())]
    onnx.helper.set_model_props(file, metadata(folded, args.layout, of_file))
    file.producer_name, file.producer_version = "hcflow_tf", hcflow_tf.__version__
    file = onnx.shape_inference.infer_shapes(file, strict_mode=True)
    try:
        onnx.checker.check_model(file, full_check=True)
    except onnx.checker.ValidationError as error:
        raise HCFlowError(f"{frame.FAILED}: {' '.join(str(error).split())[:300]}") from error
    return file


def _repeat_border(graph: tf2onnx.graph.Graph, node: tf2onnx.graph.Node, name: str, args: list) -> None:
    """MirrorPad by one pixel, of `networks.layers.convolve`, as ONNX's mode edge; tf2onnx would write a dozen operations."""
    margins = np.asarray(node.inputs[1].get_tensor_value())
    if margins.max() > 1 or node.get_attr_str("mode") != "SYMMETRIC":
        raise ValueError(f"{name}: expected a margin of one pixel, symmetric, got {margins.tolist()}")
    node.set_attr("mode", "edge")
    graph.replace_input(
        node, node.input[1], graph.make_const(f"{name}_margins", margins.T.flatten().astype(np.int64)).output[0], 1
    )


def in_order(graph: onnx.GraphProto) -> None:
    """Puts the outputs in the order lr, latents_1, latents_2, ...; the converter sorts them by name."""
    outputs = sorted(graph.output, key=lambda value: (value.name != LR, value.name))
    del graph.output[:]
    graph.output.extend(outputs)


def store_in_float16(graph: onnx.GraphProto, *, only_exactly: bool = False) -> None:
    """Stores the larger float32 weights as float16, each followed by a Cast back, which a runtime folds when it loads.

    Args:
      graph: changed in place.
      only_exactly: only those weights that float16 holds exactly, or that the factor inside an RRDB's last convolutions times
        such weights gives, so that the file computes what it did.

    Raises:
      HCFlowError: a weight is too large for float16.
    """
    import onnx

    from hcflow_tf.networks.rrdb import RESIDUAL_SCALE

    before: list[onnx.NodeProto] = []
    for weight in list(graph.initializer):
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < SMALL:
            continue
        factors = [factor for factor in (1.0, RESIDUAL_SCALE) if _is_exact(values, factor)] if only_exactly else [1.0]
        if not factors:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            raise HCFlowError(f"{frame.FAILED}: {weight.name} is too large for float16")
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(_over(values, factors[0]), f"{name}_float16"))
        before += _factor_nodes(graph, name, factors[0])
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _over(values: np.ndarray, factor: float) -> np.ndarray:
    """The float16 numbers that times this factor are the values."""
    with np.errstate(over="ignore"):
        return (values / factor).astype(np.float16)


def _is_exact(values: np.ndarray, factor: float) -> bool:
    return np.array_equal((_over(values, factor).astype(np.float64) * factor).astype(np.float32), values)


def _factor_nodes(graph: onnx.GraphProto, name: str, factor: float) -> list[onnx.NodeProto]:
    """What makes of NAME_float16 NAME, its factor times it in float32."""
    import onnx

    stored, double = f"{name}_float16", f"{name}_float64"
    if factor == 1:
        return [onnx.helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)]
    graph.initializer.append(onnx.numpy_helper.from_array(np.float64(factor), f"{name}_factor"))
    return [
        onnx.helper.make_node("Cast", [stored], [double], name=f"{double}_cast", to=onnx.TensorProto.DOUBLE),
        onnx.helper.make_node("Mul", [double, f"{name}_factor"], [f"{double}_times"], name=f"{double}_mul"),
        onnx.helper.make_node("Cast", [f"{double}_times"], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT),
    ]


def metadata(folded: InferenceModel, layout: str, latents: Sequence[Latent]) -> dict[str, str]:
    """What a program must know to use a file that has these latents."""
    return {
        "hcflow_tf_version": hcflow_tf.__version__,
        "task": folded.config.task,
        "scale": str(folded.scale),
        "latent_divisors": " ".join(str(latent.divisor) for latent in latents),
        "layout": layout,
        "color_order": "RGB",
        "value_range": "[0, 1]; hr is not clipped",
        "latents": "standard normal times the temperature; zeros for temperature 0",
    }


def name_dimensions(file: onnx.ModelProto, folded: InferenceModel, *, nchw: bool) -> None:
    """Names the free dimensions batch, height, width and their multiples, such as height_x2, in LR pixels."""
    names = latent_names(len(folded.latents))
    divisors = {HR: 1, LR: folded.scale, **{name: z.divisor for name, z in zip(names, folded.latents, strict=True)}}
    for value in (*file.graph.input, *file.graph.output):
        factor = fractions.Fraction(folded.scale, divisors[value.name])
        suffix = "" if factor == 1 else f"_x{factor}" if factor > 1 else f"_{1 / factor}th"
        names = ["batch", f"height{suffix}", f"width{suffix}"]
        dimensions = value.type.tensor_type.shape.dim
        for position, name in zip((0, 2, 3) if nchw else (0, 1, 2), names, strict=True):
            dimensions[position].dim_param = name
