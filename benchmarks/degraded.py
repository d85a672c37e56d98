"""What super-resolution makes of LR images that are blurred, noisy or compressed: Y-PSNR at temperature 0 of several models.

    python benchmarks/degraded.py --model sr-x4-compact runs/robust --hr Set14/HR --lr Set14/LR [--output FILE]

Each LR image of --lr is degraded as the row says (strengths as in `hcflow_tf.data.degradation.degrade`), enlarged by each model
and by bicubic interpolation, and compared with its HR image, 4 pixels cropped at each border, on the Y channel.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.metrics.table import format_table

DEGRADATIONS: dict[str, dict[str, Any]] = {
    "clean": {},
    "JPEG 90": {"jpeg": 90},
    "JPEG 70": {"jpeg": 70},
    "JPEG 50": {"jpeg": 50},
    "blur 0.5": {"blur": 0.5},
    "blur 0.8": {"blur": 0.8},
    "noise 4": {"noise": 4.0},
    "blur 0.5, noise 2, JPEG 70": {"blur": 0.5, "noise": 2.0, "jpeg": 70},
}


def main() -> None:
    """Runs the measure and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, help="model directories or names")
    parser.add_argument("--hr", required=True, metavar="DIR")
    parser.add_argument("--lr", required=True, metavar="DIR")
    parser.add_argument("--output", metavar="FILE", help="the figures as JSON")
    args = parser.parse_args()
    from hcflow_tf.data.degradation import degrade
    from hcflow_tf.data.pairs import load_pair, pair_folders
    from hcflow_tf.data.resize import imresize
    from hcflow_tf.images.images import quantize
    from hcflow_tf.inference.measurement import to_float
    from hcflow_tf.inference.scaling import Scaler
    from hcflow_tf.metrics.report import image_metrics
    from hcflow_tf.runtimes.keras import KerasRuntime

    scalers = {name: Scaler(KerasRuntime(name)) for name in args.model}
    scale = next(iter(scalers.values())).scale
    pairs = pair_folders(args.hr, args.lr, scale)
    figures: dict[str, dict[str, float]] = {}
    for what, strengths in DEGRADATIONS.items():
        scores: dict[str, list[float]] = {name: [] for name in ("bicubic", *scalers)}
        for number, pair in enumerate(pairs):
            hr, lr = load_pair(pair, scale)
            given = degrade(lr, **strengths, seed=number)
            shown = to_float(given)
            enlarged = {name: quantize(scaler.upscale(shown)) for name, scaler in scalers.items()}
            enlarged["bicubic"] = imresize(given, scale)
            for name, image in enlarged.items():
                scores[name].append(image_metrics(image, hr, scale)["psnr_y"])
        figures[what] = {name: float(np.mean(values)) for name, values in scores.items()}
        print(f"{what}: done", file=sys.stderr)
    rows = [[what, *(f"{value:.2f}" for value in of.values())] for what, of in figures.items()]
    print(format_table([f"Y-PSNR of {len(pairs)} images", "bicubic", *scalers], rows))
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
