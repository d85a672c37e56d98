"""Trains the paper's ablation cases at compact size for equal time, measures them, and writes docs/ablation.md.

    python benchmarks/ablation.py --data data [--minutes 20] [--only case-1 ...] [--report-only]

As benchmarks/comparison.py, whose options and folders it has: each case is configs/comparison/hcflow_x4.yaml (likelihood only)
with the conditions of the paper's table 5, and its published figures (configs/ablation has the cases at full size) stand
beside. LPIPS needs weights from elsewhere; PSNR of samples stands in its place.
"""

from __future__ import annotations

import argparse
import json

from comparison import Row, arguments, markdown_table, plan_of, report_of, run

METRICS = ("psnr", "ssim")
"""NIQE is not defined of what case 1 restores at temperature 0, which is nearly constant."""
STAGES = (("hcflow_x4", 1.0),)
WITHOUT_LR, WITH_LR = "model.lr_is_output=false", "model.lr_is_output=true"


def _case(name: str, lr: str, fine: str, coarse: str) -> Row:
    return Row(name, STAGES, overrides=(f"model.conditions=[{fine}, {coarse}]", lr))


ROWS = (
    _case("case-1", WITHOUT_LR, "nothing", "nothing"),
    _case("case-2", WITHOUT_LR, "own_and_below", "lr"),
    _case("case-3", WITH_LR, "own_and_below", "lr"),
    _case("case-4", WITH_LR, "nothing", "nothing"),
    _case("case-5", WITH_LR, "own", "own"),
    Row("HCFlow", STAGES),
)
PUBLISHED = {
    "case-1": ("z2, z1", "none", "none", 4.76, 0.863),
    "case-2": ("z2, z1", "y*", "y*, y1", 28.73, 0.123),
    "case-3": ("y2, z2, z1", "y*", "y*, y1", 28.71, 0.124),
    "case-4": ("y2, z2, z1", "none", "none", 18.95, 0.361),
    "case-5": ("y2, z2, z1", "y2", "y1", 28.60, 0.126),
    "HCFlow": ("y2, z2, z1", "y2", "y2, y1", 28.71, 0.124),
}
"""Outputs, conditions of level 2 and 1; PSNR at temperature 0 and LPIPS at 0.9 on DIV2K, of the paper's table 5."""
HEADER = ("case", "outputs", "condition of level 2", "of level 1", "published PSNR, dB", "published LPIPS")
INTRODUCTION = """# The ablation at compact size

Written by `python benchmarks/ablation.py`: each case trained for {minutes:g} minutes of one core on the 400 photographs of
BSDS500, as row HCFlow of [the comparison](comparison.md) but for its conditions. Published: the paper's table 5 (DIV2K, PSNR at
temperature 0, LPIPS at 0.9, the full model after 300,000 steps). Here: RGB-PSNR at temperature 0, of samples at 0.8, and bits per
dimension.
"""


def main() -> None:
    """Runs what is missing, then writes the table."""
    args = arguments(__doc__, ROWS, "ablation", minutes=20)
    rows = [row for row in ROWS if not args.only or row.name in args.only]
    if not args.report_only:
        run(rows, args, METRICS)
    write([row for row in rows if all(report_of(row.name, images, args).exists() for images in args.sets)], args)


def write(rows: list[Row], args: argparse.Namespace) -> None:
    """Writes the document."""
    names = [f"{images}: {figure}" for images in args.sets for figure in ("PSNR at 0, dB", "at 0.8", "bits per dimension")]
    lines: list[list[str]] = []
    figures: dict[str, dict] = {}
    for row in rows:
        outputs, coarse, fine, psnr, lpips = PUBLISHED[row.name]
        cells = [row.name, outputs, coarse, fine, f"{psnr:.2f}", f"{lpips:.3f}"]
        cells.append(f"{json.loads(plan_of(row, 1, args).read_text())['steps']:,}")
        for images in args.sets:
            mean = json.loads(report_of(row.name, images, args).read_text())["mean"]["temperature"]
            figures[f"{row.name}-{images}"] = mean
            zero, drawn = mean["0.0"], mean["0.8"]
            cells += [f"{zero['psnr_rgb']:.2f}", f"{drawn['psnr_rgb']:.2f}", f"{zero['bits_per_dim']:.3f}"]
        lines.append(cells)
    table = markdown_table([*HEADER, "steps", *names], lines)
    args.output.write_text(f"{INTRODUCTION.format(minutes=args.minutes)}\n{table}")
    args.output.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"table: {args.output}")


if __name__ == "__main__":
    main()
