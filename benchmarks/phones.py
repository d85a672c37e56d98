"""What an engineer asks of the .tflite files: size, peak memory, latency and PSNR loss, of every shipped model.

    python benchmarks/phones.py [--model NAME ...] [--lr-size 64x64 128x128] [--runs 5]

Each file is exported, then decodes a photograph at temperature 0 in the C program of examples/litert_c: peak memory is that
of its process without Python, latency its fastest run with LiteRT's own number of threads. The loss is of Y-PSNR against
the original, from the Keras model's picture to the file's.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/native"))

from build import build, compiler

from hcflow_tf.export import script
from hcflow_tf.images.images import quantize
from hcflow_tf.metrics.table import format_table
from hcflow_tf.runtimes.export_frame import CheckImage, check_images, lr_size, y_psnr
from hcflow_tf.weights.shipped import list_models
from hcflow_tf.weights.store import load_model

PRECISIONS = ("float32", "float16", "int8")
HEADER = ("model", "tile", "precision", "file MiB", "peak MiB", "latency s", "Y-PSNR lost, dB")


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list_models(), help="model directories or names (default: all shipped)")
    parser.add_argument("--lr-size", nargs="+", type=lr_size, default=[(64, 64), (128, 128)], metavar="HxW")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    if compiler() is None:
        sys.exit("phones.py: no C compiler (cc, or name one by CC)")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        build("litert_decode", folder / "decode")
        for model in args.model:
            for size in args.lr_size:
                photograph = list(check_images(load_model(model), size, 0.0))[-1]
                rows += [measure(folder, model, size, precision, photograph, args.runs) for precision in PRECISIONS]
    print(format_table(HEADER, rows))


def measure(
    folder: pathlib.Path, model: str, size: tuple[int, int], precision: str, photograph: CheckImage, runs: int
) -> list[str]:
    """One row of the table."""
    tile = "x".join(map(str, size))
    file = folder / f"{pathlib.Path(model).name}.{tile}.{precision}.tflite"
    options = ["--model", model, "--output", str(file), "--precision", precision, "--lr-size", tile]
    if code := script("tflite", options):
        sys.exit(code)
    Image.fromarray(quantize(photograph.lr[0])).save(folder / "lr.ppm")
    command = [folder / "decode", file, folder / "lr.ppm", folder / "hr.f32", "0", "0", str(runs)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    latency, peak = map(float, finished.stdout.split())
    hr = np.fromfile(folder / "hr.f32", np.float32).reshape(photograph.decoded.shape)
    loss = y_psnr(photograph.decoded, photograph.hr) - y_psnr(hr, photograph.hr)
    return [
        model,
        tile,
        precision,
        f"{file.stat().st_size / 2**20:.2f}",
        f"{peak / 1024:.0f}",
        f"{latency:.3f}",
        f"{loss:+.4f}",
    ]


if __name__ == "__main__":
    main()
