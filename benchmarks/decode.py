"""Decoding speed, memory, size and quality of runtimes and precisions, each beside the Keras model in the same run.

    python benchmarks/decode.py --model DIR [FILE | ENGINE:PRECISION ...] [--lr-size 64x64] [--rounds 5]

FILE are exports of the model: SavedModel directories, .tflite, .onnx; openvino:bfloat16 and the like are what --runtime and
--precision mean. Times are processor time, threads together. Every contestant lives in its own process (so that
its peak memory is its own) and decodes the same photograph, one after the other, round by round (so that what slows the
machine slows all of them). Ratios are medians of the rounds' ratios to the Keras model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pathlib
import re
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.metrics.table import format_table
from hcflow_tf.support.latents import latent_shapes
from hcflow_tf.weights.store import find_model

KERAS, FOLDED = "keras model", "folded"
_ENGINE = re.compile("(keras|onnx|openvino|litert):(float32|bfloat16|int8)")


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory or name")
    parser.add_argument("file", nargs="*", help="exports of it, or ENGINE:PRECISION")
    parser.add_argument("--lr-size", default="64x64", metavar="HxW", help="LR pixels (default 64x64)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.model = str(find_model(args.model))
    size = tuple(int(side) for side in args.lr_size.split("x"))
    names = [KERAS, FOLDED, *args.file]
    context = multiprocessing.get_context("spawn")
    pipes = []
    for name in names:
        here, there = context.Pipe()
        context.Process(target=_work, args=(there, args.model, name, size), daemon=True).start()
        there.close()  # so that `recv` ends when the process does
        pipes.append(here)
        here.recv()  # loaded and warmed up, before the next one starts
    times = [[_ask(pipe, "decode") for pipe in pipes] for _ in range(args.rounds)]
    rows = [_ask(pipe, "facts") for pipe in pipes]
    for pipe in pipes:
        pipe.send("stop")
    print(_table(names, np.array(times), rows, size))


def _ask(pipe: Connection, what: str) -> float | dict[str, float]:
    pipe.send(what)
    return pipe.recv()


def _work(pipe: Connection, model: str, name: str, size: tuple[int, int]) -> None:
    """Answers "decode" with the seconds of one decoding, "facts" with peak memory, file size and Y-PSNR, until "stop"."""
    runtime = _KerasModel(model) if name == KERAS else _open(model, name)
    hr, lr = _photograph(runtime.scale, size)
    latents = [np.zeros([1, *shape], np.float32) for shape in latent_shapes(*size, runtime.scale, runtime.latents)]
    image = runtime.decode(lr, latents)
    pipe.send("ready")
    while (request := pipe.recv()) != "stop":
        if request == "decode":
            start = time.process_time()
            runtime.decode(lr, latents)
            pipe.send(time.process_time() - start)
        else:
            path = pathlib.Path(model if name in (KERAS, FOLDED) or _ENGINE.fullmatch(name) else name)
            pipe.send({"memory": _peak_memory(), "size": _size(path), "psnr": _y_psnr(image, hr)})


class _KerasModel:
    """`TrainedModel.decode`, without folding."""

    def __init__(self, model: str):
        from hcflow_tf import load_model

        self._model = load_model(model)
        self.scale, self.latents = self._model.scale, self._model.latents

    def decode(self, lr: np.ndarray, latents: list[np.ndarray]) -> np.ndarray:
        return self._model.decode(lr, latents).numpy()


def _open(model: str, name: str) -> object:
    from hcflow_tf.runtimes.open import open_runtime

    if match := _ENGINE.fullmatch(name):
        return open_runtime(model, engine=match[1], precision=match[2])
    return open_runtime(model if name == FOLDED else name)


def _photograph(scale: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    from hcflow_tf.data.resize import imresize
    from hcflow_tf.data.samples import held_out_photographs
    from hcflow_tf.images.images import read_image

    image = read_image(held_out_photographs()[0]).rgb_uint8
    height, width = size[0] * scale, size[1] * scale
    image = np.tile(image, (-(-height // image.shape[0]), -(-width // image.shape[1]), 1))[:height, :width]
    return image[None] / np.float32(255), imresize(image, 1 / scale)[None] / np.float32(255)


def _y_psnr(image: np.ndarray, hr: np.ndarray) -> float:
    from hcflow_tf.images.images import quantize
    from hcflow_tf.metrics.luma import rgb_to_y
    from hcflow_tf.metrics.psnr import psnr

    return psnr(rgb_to_y(quantize(image[0])), rgb_to_y(quantize(hr[0])))


def _peak_memory() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _size(path: pathlib.Path) -> float:
    """MiB of a file or of all files of a directory."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def _table(names: list[str], times: np.ndarray, rows: list[dict[str, float]], size: tuple[int, int]) -> str:
    megapixels = size[0] * size[1] / 1e6
    header = [
        "runtime",
        "ms per LR megapixel (range)",
        "ratio",
        "peak MiB",
        "ratio",
        "file MiB",
        "ratio",
        "Y-PSNR difference, dB",
    ]
    cells = []
    for column, (name, facts) in enumerate(zip(names, rows, strict=True)):
        speeds = 1e3 * times[:, column] / megapixels
        cells.append(
            [
                pathlib.Path(name).name,
                f"{np.median(speeds):,.0f} ({speeds.min():,.0f} to {speeds.max():,.0f})",
                f"{statistics.median(times[:, column] / times[:, 0]):.2f}",
                f"{facts['memory']:,.0f}",
                f"{facts['memory'] / rows[0]['memory']:.2f}",
                f"{facts['size']:.1f}",
                f"{facts['size'] / rows[0]['size']:.2f}",
                f"{facts['psnr'] - rows[0]['psnr']:+.4f}",
            ]
        )
    title = f"{size[0]} x {size[1]} LR pixels, temperature 0, {len(times)} rounds; ratios to the Keras model of this run"
    return f"{title}\n{format_table(header, cells)}"


if __name__ == "__main__":
    main()
