"""The reports behind README's tables, and the tables.

    python docs/results/evaluate.py SETS      # measures again: SETS holds Set5/HR, Set5/LR, Set14/HR, ... (tens of minutes)
    python docs/results/evaluate.py           # only fills README's tables from the reports beside this file

Tables stand in README.md between the lines <!-- results: NAME --> and <!-- end -->; tests/test_results.py checks that they
say what the reports say.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent
README = HERE.parents[1] / "README.md"
SETS = ("Set5", "Set14", "BSD100")


@dataclasses.dataclass(frozen=True)
class Row:
    """One system: measured here, or published."""

    label: str
    source: str
    model: str | None = None
    """What was measured; None for published figures."""
    with_lr: bool = True
    published: tuple[str, ...] = ()
    """One cell per set."""


BICUBIC = "`hcflow evaluate --model bicubic --hr SET/HR --lr SET/LR`"
TABLES: dict[str, tuple[str, tuple[Row, ...]]] = {
    "rescaling": (
        "x4 rescaling, Y-PSNR / SSIM",
        (
            Row("bicubic down, bicubic up", BICUBIC, "bicubic"),
            Row(
                "`rescale-x4-compact-3`, 0.54M weights",
                "`hcflow evaluate --model rescale-x4-compact-3 --hr SET/HR`",
                "rescale-x4-compact-3",
                with_lr=False,
            ),
            Row(
                "HCFlow, 4.4M weights, published",
                "the paper; recipe: `configs/rescale_x4.yaml`",
                published=("36.29 / .9468", "33.02 / .9065", "31.74 / .8864"),
            ),
        ),
    ),
    "super-resolution": (
        "x4 super-resolution, Y-PSNR / SSIM at temperature 0",
        (
            Row("bicubic", BICUBIC, "bicubic"),
            Row(
                "`sr-x4-compact-3`, 1.97M weights",
                "`hcflow evaluate --model sr-x4-compact-3 --hr SET/HR --lr SET/LR`",
                "sr-x4-compact-3",
            ),
        ),
    ),
}


def report_file(model: str, images: str) -> pathlib.Path:
    """Where the report of a model on a set lies."""
    return HERE / f"{model}-{images}.json"


def measure(sets: pathlib.Path) -> None:
    """Writes all reports."""
    from hcflow_tf.support import cli

    rows = {row.model: row for _, table in TABLES.values() for row in table if row.model}
    for model, row in rows.items():
        for images in SETS:
            arguments = ["--model", model, "--hr", str(sets / images / "HR"), "--temperature", "0", "--no-likelihood"]
            arguments += ["--lr", str(sets / images / "LR")] if row.with_lr else []
            if cli.execute("evaluate", [*arguments, "--output", str(report_file(model, images)), "--overwrite"]):
                raise SystemExit(f"{model} could not be measured on {images}")


def table(name: str) -> str:
    """A table of README, from the reports."""
    title, rows = TABLES[name]
    lines = [f"| {title} | {' | '.join(SETS)} | command |", "|---" * (len(SETS) + 2) + "|"]
    for row in rows:
        cells = row.published or tuple(
            _cell(json.loads(report_file(str(row.model), images).read_text())["mean"]) for images in SETS
        )
        lines.append(f"| {row.label} | {' | '.join(cells)} | {row.source} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """README's text with every table as the reports have it."""
    for name in TABLES:
        start, end = f"<!-- results: {name} -->\n", "\n<!-- end -->"
        pattern = re.escape(start) + ".*?" + re.escape(end)
        if len(re.findall(pattern, text, re.DOTALL)) != 1:
            raise ValueError(f"README.md: expected one table between {start.strip()} and {end.strip()}")
        text = re.sub(pattern, lambda _, name=name, start=start, end=end: start + table(name) + end, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Measures if sets are given, and fills README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="?", type=pathlib.Path, help="folder of Set5/HR, Set5/LR, Set14/HR, ...")
    sets = parser.parse_args().sets
    if sets:
        measure(sets)
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")


def _cell(mean: dict[str, float]) -> str:
    return f"{mean['psnr_y']:.2f} / {mean['ssim_y']:.4f}".replace("/ 0.", "/ .")


if __name__ == "__main__":
    main()
