"""Cold start, latency and throughput of an exported SavedModel in TensorFlow's C++ runtime, without Python or network.

    python benchmarks/serving.py --model sr-x4-compact [--lr-size 64x64] [--calls 6]

A C program (tests/native/saved_model_client.c) loads the export, calls the signature upscale once, then --calls times from
each of 1 and 8 threads on one loaded model, and from one thread with batches of 8: what TF Serving's batching would make
of 8 requests. Every row is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/native"))

from build import build, compiler
from tensor_file import write_requests

from hcflow_tf.export import script
from hcflow_tf.metrics.table import format_table

ROWS = ((1, 1), (1, 8), (8, 1))
"""Images per call, callers."""


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory or name")
    parser.add_argument("--lr-size", default="64x64", metavar="HxW", help="LR pixels (default 64x64)")
    parser.add_argument("--calls", type=int, default=6, help="of each caller (default 6)")
    args = parser.parse_args()
    if compiler() is None:
        sys.exit("serving.py: no C compiler (cc, or name one by CC)")
    height, width = (int(side) for side in args.lr_size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        build("saved_model_client", folder / "client")
        if code := script("saved-model", ["--model", args.model, "--output", str(folder / "served")]):
            sys.exit(code)
        rows = [measure(folder, batch, callers, args.calls, (height, width)) for batch, callers in ROWS]
    print(f"{args.model}, {height} x {width} LR pixels, signature upscale, {args.calls} calls of each caller")
    print(format_table(["images a call", "callers", "load s", "first call s", "p50 s", "p95 s", "images/s"], rows))


def measure(folder: pathlib.Path, batch: int, callers: int, calls: int, size: tuple[int, int]) -> list[str]:
    """One row of the table."""
    image = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)
    write_requests(folder / "requests", {"upscale": {"image": image}})
    command = [folder / "client", folder / "served/1", folder / "requests", "--bench", str(callers), str(calls)]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    seconds = [f"{figures[name]:.2f}" for name in ("load_s", "first_call_s", "p50_s", "p95_s")]
    return [str(batch), str(callers), *seconds, f"{batch * figures['calls_per_s']:.2f}"]


if __name__ == "__main__":
    main()
