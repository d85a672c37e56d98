"""What measuring costs beside decoding, image by image in one run.

    python benchmarks/metrics.py --hr BSD100/HR [--lr BSD100/LR] [--model sr-x4-compact] [--images 20] [--lpips-weights FILE ...]

Each image is decoded at temperature 0, then measured; what `hcflow evaluate` adds to the decoding is the sum of the
metrics. Ratios are of the sums over the images, their range that of the single images. LPIPS is timed where its weights
are given (`hcflow evaluate --lpips-weights`).
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.data.pairs import Pair, find_images, load_pair, pair_names
from hcflow_tf.images.images import quantize
from hcflow_tf.inference.measurement import Measurement, to_float
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.metrics.lpips import NETWORK, open_lpips
from hcflow_tf.metrics.report import METRICS
from hcflow_tf.metrics.table import format_table
from hcflow_tf.runtimes.open import open_runtime


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr", required=True, metavar="DIR")
    parser.add_argument("--lr", metavar="DIR")
    parser.add_argument("--model", default="sr-x4-compact")
    parser.add_argument("--images", type=int, default=20, help="the first so many (default 20)")
    parser.add_argument("--lpips-weights", nargs="+", default=[], metavar="FILE")
    args = parser.parse_args()
    lpips = open_lpips([*NETWORK], args.lpips_weights) if args.lpips_weights else {}
    scaler = Scaler(open_runtime(args.model))
    pairs = pair_names(args.hr, args.lr, scaler.scale) if args.lr else [Pair(path) for path in find_images(args.hr)]
    rows = [_seconds(scaler, *load_pair(pair, scaler.scale), lpips) for pair in pairs[: args.images + 1]]
    print(_table(rows[1:]))  # the first one built the graph


def _seconds(scaler: Scaler, hr: np.ndarray, lr: np.ndarray, lpips: dict) -> dict[str, float]:
    sr, seconds = np.empty(0), {}

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - start
        return result

    sr = timed("decoding", lambda: quantize(scaler.upscale(to_float(lr))))
    for name in METRICS:
        if name not in NETWORK or name in lpips:
            timed(name, lambda name=name: Measurement(hr, lr, scaler.scale, [name], lpips).restored([sr], from_own_lr=True))
    timed("consistency", lambda: Measurement(hr, lr, scaler.scale, []).restored([sr]))
    if scaler.runtime.has_likelihood:
        timed("bits_per_dim", lambda: Measurement(hr, lr, scaler.scale).likelihood(scaler.log_prob, seed=0))
    return seconds


def _table(rows: list[dict[str, float]]) -> str:
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    measuring = {name: seconds for name, seconds in total.items() if name not in ("decoding", "bits_per_dim")}
    lines = [[name, f"{seconds / len(rows):.3f}", *_ratio(rows, [name])] for name, seconds in total.items()]
    lines.append(["decoding and all metrics of images", "", *_ratio(rows, ["decoding", *measuring])])
    return format_table(["", "seconds per image", "of decoding", "single images"], lines)


def _ratio(rows: list[dict[str, float]], names: list[str]) -> list[str]:
    single = [sum(row[name] for name in names) / row["decoding"] for row in rows]
    whole = sum(row[name] for row in rows for name in names) / sum(row["decoding"] for row in rows)
    return [f"{whole:.2f}", f"{min(single):.2f} to {max(single):.2f}"]


if __name__ == "__main__":
    main()
