"""Exports the shipped models for the page: MODEL.PRECISION.onnx files and models.json, which tells the page what they are.

python web/export_models.py web/dist/models
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np
import onnx

from hcflow_tf.export import script
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.models.complexity import measure
from hcflow_tf.runtimes.exported import encoder_path
from hcflow_tf.runtimes.onnx import OnnxRuntime
from hcflow_tf.weights.shipped import DEFAULT_MODEL
from hcflow_tf.weights.store import load_model

PRECISIONS = ("float32", "float16")


PROBE_SIDE, PROBE_TEMPERATURE, PROBE_SEED, PROBE_VALUES = 16, 0.8, 1, 512


def probe(path: pathlib.Path) -> dict:
    """What the file makes of a small picture, some of its values: src/probe.js compares the browser's engines with it."""
    runtime = OnnxRuntime(path)
    latents = Scaler(runtime)._draw_latents(PROBE_SIDE, PROBE_SIDE, PROBE_TEMPERATURE, PROBE_SEED)
    found = {"side": PROBE_SIDE, "decoder": some(runtime.decode(waves(PROBE_SIDE)[None], [z[None] for z in latents]))}
    if runtime.can_encode:
        found["encoder"] = some(runtime.encode(waves(PROBE_SIDE * runtime.scale)[None])[0])
    return found


def waves(side: int) -> np.ndarray:
    """[side, side, 3] float32."""
    y, x, channel = np.mgrid[:side, :side, :3]
    return (0.5 + 0.4 * np.sin(0.3 * (channel + 1) * x + 0.5 * y)).astype(np.float32)


def some(values: np.ndarray) -> dict:
    """Every so many-th value, in the order of memory."""
    every = max(1, values.size // PROBE_VALUES) | 1  # odd: all channels and columns have their turn
    return {"every": every, "values": [round(float(value), 5) for value in values.ravel()[::every]]}


def pad_channels(path: pathlib.Path) -> None:
    """Gives every spatial convolution a number of input channels that 4 divides, by zeros that change nothing.

    ONNX Runtime 1.30's WebGPU convolution computes something else for 6 channels, and probably for others that 3 divides.
    """
    file = onnx.load(path)
    graph = file.graph
    weights = {weight.name.removesuffix("_float16"): weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            weight = weights[node.input[1]]
            values = onnx.numpy_helper.to_array(weight)
            channels, height, width = values.shape[1:]
            if height * width > 1 and channels > 3 and (missing := -channels % 4):
                padded = np.pad(values, [(0, 0), (0, missing), (0, 0), (0, 0)])
                weight.CopyFrom(onnx.numpy_helper.from_array(padded, weight.name))
                name = f"{node.output[0]}_input"
                pads = onnx.numpy_helper.from_array(np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64), f"{name}_pads")
                graph.initializer.append(pads)
                nodes.append(onnx.helper.make_node("Pad", [node.input[0], pads.name], [name], name=name))
                node.input[0] = name
        nodes.append(node)
    del graph.node[:], graph.value_info[:]  # inferred shapes: some are others now
    graph.node.extend(nodes)
    onnx.checker.check_model(file, full_check=True)
    path.write_bytes(file.SerializeToString())


def export(name: str, folder: pathlib.Path) -> dict:
    """Writes one model's files; returns its entry of models.json."""
    model = load_model(name)
    cost = measure(model.config, {key: weight.shape for key, weight in model.named_weights().items()})
    files = {}
    for precision in PRECISIONS:
        path = folder / f"{name}.{precision}.onnx"
        options = ["--model", name, "--output", str(path), "--precision", precision, "--overwrite"]
        if code := script("onnx", options):
            raise SystemExit(code)
        parts = {part: file for part, file in (("decoder", path), ("encoder", encoder_path(path))) if file.is_file()}
        if precision == "float32":
            stored = probe(path)
        for file in parts.values():
            pad_channels(file)
        files[precision] = {part: {"file": file.name, "bytes": file.stat().st_size} for part, file in parts.items()}
    return {
        "name": name,
        "task": model.config.task,
        "scale": model.scale,
        "latent_channels": list(model.latent_channels),
        "overlap": cost.overlap,
        "decode_bytes": cost.decode_bytes,
        "probe": stored,
        "files": files,
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder to write to")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    # The page draws samples: for super-resolution it has the model for them alone, to be loaded once.
    models = [export(DEFAULT_MODEL[role], folder) for role in ("sample", "downscale")]
    (folder / "models.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
