"""Writes an entry of a Triton model repository, OUTPUT/config.pbtxt and OUTPUT/1/, for Triton's Python backend.

Inputs image uint8 [B, h, w, 3] and, optional, temperature float32 [B, 1] and seed int64 [B, 1]; output enlarged uint8. The
server's Python needs NumPy and ONNX Runtime. Requests are batched as they come.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import tempfile

from hcflow_tf.runtimes import export_frame as frame
from hcflow_tf.runtimes import onnx_export
from hcflow_tf.support import files
from hcflow_tf.weights.store import model_files

CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 8
input [
  {{ name: "image", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] }},
  {{ name: "temperature", data_type: TYPE_FP32, dims: [ 1 ], optional: true }},
  {{ name: "seed", data_type: TYPE_INT64, dims: [ 1 ], optional: true }}
]
output [ {{ name: "enlarged", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] }} ]
# Images of one size that arrive within 5 ms run together.
dynamic_batching {{ max_queue_delay_microseconds: 5000 }}
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
"""

PROGRAM = pathlib.Path(__file__).with_name("triton_model.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    frame.add_arguments(parser, "directory to write in the model repository; its name is the served model's name")


def run(args: argparse.Namespace) -> None:
    """Exports, checks, writes."""
    name = frame.model_name(args.output)
    targets = {name: args.output / name for name in ("config.pbtxt", "1/model.py", "1/decoder.onnx")}
    files.check_targets(targets.values(), inputs=model_files(args.model), overwrite=args.overwrite, option="--output")
    model = frame.load(args)

    from hcflow_tf.models.folded import InferenceModel
    from hcflow_tf.runtimes.onnx import OnnxRuntime
    from hcflow_tf.runtimes.tensor_functions import decoder

    folded = InferenceModel(model)
    args.opset, args.layout, args.precision = onnx_export.OPSETS[-1], "nhwc", "float32"
    content = onnx_export.convert(decoder(folded, None, latents=True), folded, args).SerializeToString()
    with tempfile.TemporaryDirectory(prefix="hcflow-") as folder:
        path = pathlib.Path(folder) / "decoder.onnx"
        path.write_bytes(content)
        onnx_export.check(model, OnnxRuntime(path), args.precision)
    (args.output / "1").mkdir(parents=True, exist_ok=True)
    files.write_atomically(targets["1/decoder.onnx"], content)
    files.write_atomically(targets["1/model.py"], PROGRAM.read_bytes())
    files.write_atomically(targets["config.pbtxt"], CONFIG.format(name=name).encode())
    print(f"{args.output}\nserve it: tritonserver --model-repository {shlex.quote(str(args.output.resolve().parent))}")
