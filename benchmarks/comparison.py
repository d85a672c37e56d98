"""Trains the rival systems at compact size for equal time on equal data, measures them, and writes docs/comparison.md.

    python benchmarks/comparison.py --data data [--minutes 40] [--only NAME ...] [--report-only]

--data holds BSDS500 (photographs) and Set5, Set14, BSD100 with HR and LR folders each. Every row is a list of
configs/comparison/*.yaml, each for its share of the minutes, on one thread of one core; how many steps that is, a probe of
each stage measures first. Everything lies in --runs and is not done twice: the same command goes on where it was stopped.

The table has what `hcflow evaluate` reports (at temperature 0, and 0.8 for systems that draw samples), weights, multiply-adds,
steps, and the time of decoding per megapixel of HR, all systems in turn in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # so that a checkout works without being installed

from hcflow_tf.data.pairs import Pair, load_pair
from hcflow_tf.data.samples import held_out_photographs
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.inference.evaluation import Evaluation
from hcflow_tf.inference.panels import centre, picture
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes.open import open_runtime

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETS = ("Set5", "Set14", "BSD100")
METRICS = ("psnr", "ssim", "niqe", "niqe_y", "brisque")
PROBE_STEPS = 150
ONE_CORE = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A system of the comparison.

    Attributes:
      name: in the table, and of its run directories.
      stages: config in configs/comparison and share of the minutes; each starts from the one before.
      draws: whether it is measured at temperature 0.8, too.
      own_lr: whether it restores LR images of its own.
      overrides: of its configs, KEY=VALUE.
    """

    name: str
    stages: tuple[tuple[str, float], ...]
    draws: bool = True
    own_lr: bool = False
    overrides: tuple[str, ...] = ()


ROWS = (
    Row("RRDB", (("rrdb_x4", 1.0),), draws=False),
    Row("SRFlow", (("srflow_rrdb_x4", 0.125), ("srflow_x4", 0.875))),
    Row("HCFlow", (("hcflow_x4", 1.0),)),
    Row("HCFlow+", (("hcflow_x4", 0.125), ("hcflow_plus_x4", 0.875))),
    Row("IRN", (("irn_x4", 1.0),), draws=False, own_lr=True),
    Row("HCFlow-rescaling", (("hcflow_rescale_x4", 1.0),), draws=False, own_lr=True),
)


def main() -> None:
    """Runs what is missing, then writes the tables."""
    args = arguments(__doc__, ROWS, "comparison", minutes=40)
    rows = [row for row in ROWS if not args.only or row.name in args.only]
    if not args.report_only:
        run(rows, args)
        measure("bicubic", "bicubic", args, draws=False)
    write(rows, args)


def arguments(description: str | None, rows: Sequence[Row], name: str, *, minutes: float) -> argparse.Namespace:
    """The options of a benchmark that trains rows, `name` being its run directory and document."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "data")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / name)
    parser.add_argument("--minutes", type=float, default=minutes, help=f"of training, each row (default {minutes:g})")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in rows], metavar="NAME", help="these rows")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--images", type=int, help="measure the first so many of each set only (a trial)")
    parser.add_argument("--report-only", action="store_true", help="train and measure nothing, write the table of what there is")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=ROOT / f"docs/{name}.md")
    return parser.parse_args()


def run(rows: Sequence[Row], args: argparse.Namespace, metrics: Sequence[str] = METRICS) -> None:
    """Trains and measures what is missing."""
    for row in rows:
        plan(row, args)  # all before the first training, so that one is not measured beside other work than another
    for row in rows:
        train(row, args)
        measure(row.name, str(model_of(row, args)), args, draws=row.draws, metrics=metrics)


def report_of(name: str, images: str, args: argparse.Namespace) -> pathlib.Path:
    """What `measure` writes."""
    return args.runs / "reports" / f"{name}-{images}.json"


def run_of(row: Row, stage: int, args: argparse.Namespace) -> pathlib.Path:
    """The run directory of a stage, from 1."""
    return args.runs / row.name / str(stage)


def plan_of(row: Row, stage: int, args: argparse.Namespace) -> pathlib.Path:
    """Where it says how many steps the stage is."""
    return args.runs / row.name / f"{stage}.json"


def model_of(row: Row, args: argparse.Namespace) -> pathlib.Path:
    """What is measured: the last weights of the last stage."""
    return run_of(row, len(row.stages), args) / "last"


def plan(row: Row, args: argparse.Namespace) -> None:
    """Measures how many steps each stage makes in its share of the minutes, where that is not known."""
    for stage, (config, share) in enumerate(row.stages, start=1):
        path = plan_of(row, stage, args)
        if not path.exists():
            rate = _probe(row, stage, config, args)
            steps = max(PROBE_STEPS, round(rate * 60 * args.minutes * share))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"steps_per_second": rate, "steps": steps, "minutes": args.minutes * share}) + "\n")


def _probe(row: Row, stage: int, config: str, args: argparse.Namespace) -> float:
    """Steps per second of the stage's own training, from the probe of the one before, after its graph is built."""
    run = _probe_run(row, stage, args)
    sets = [*_sets(row, PROBE_STEPS, args), *_start(stage, _probe_run(row, stage - 1, args)), "--set", "training.log_every=50"]
    sets += ["--set", "data.validation.hr=[]", "--set", "data.validation.lr=null", "--set", "training.checkpoint_every=1000"]
    _hcflow("train", "--config", _config(config), "--run-dir", run, *sets)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["steps_per_second"] for line in log if "steps_per_second" in line][-1]


def _probe_run(row: Row, stage: int, args: argparse.Namespace) -> pathlib.Path:
    return run_of(row, stage, args).with_name(f"{stage}-probe")


def _start(stage: int, before: pathlib.Path) -> list[str]:
    return ["--set", f"training.start_from={before / 'last'}"] if stage > 1 else []


def train(row: Row, args: argparse.Namespace) -> None:
    """Trains the stages that are not done."""
    for stage, (config, _) in enumerate(row.stages, start=1):
        steps = json.loads(plan_of(row, stage, args).read_text())["steps"]
        sets = [*_sets(row, steps, args), *_start(stage, run_of(row, stage - 1, args))]
        _hcflow("train", "--config", _config(config), "--run-dir", run_of(row, stage, args), *sets)


def _sets(row: Row, steps: int, args: argparse.Namespace) -> list[str]:
    values = [*row.overrides, f"training.steps={steps}", f"data.train.hr={args.data / 'BSDS500'}"]
    values += [f"data.validation.{kind}={args.data / 'Set5' / kind.upper()}" for kind in ("hr", *(() if row.own_lr else ("lr",)))]
    return [part for value in values for part in ("--set", value)]


def measure(name: str, model: str, args: argparse.Namespace, *, draws: bool, metrics: Sequence[str] = METRICS) -> None:
    """Writes the reports that are not there."""
    for images in args.sets:
        report = report_of(name, images, args)
        if report.exists():
            continue
        report.parent.mkdir(parents=True, exist_ok=True)
        folders = [args.data / images / "HR", args.data / images / "LR"]
        if args.images:
            folders = [_first(folder, args) for folder in folders]
        options = ["--temperature", "0", "0.8", "--samples", "5"] if draws else ["--temperature", "0"]
        data = ("--hr", folders[0], "--lr", folders[1])
        _hcflow("evaluate", "--model", model, *data, *options, "--metrics", *metrics, "--output", report, "--overwrite")


def _first(folder: pathlib.Path, args: argparse.Namespace) -> pathlib.Path:
    """A folder of links to the first images."""
    some = args.runs / "some" / folder.parent.name / folder.name
    some.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir())[: args.images]:
        if not (some / path.name).exists():
            (some / path.name).symlink_to(path.resolve())
    return some


def _config(name: str) -> pathlib.Path:
    return ROOT / "configs/comparison" / f"{name}.yaml"


def _hcflow(*arguments: object) -> None:
    environment = os.environ | ONE_CORE | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "hcflow_tf", *map(str, arguments)], check=True, env=environment, cwd=ROOT)


def write(rows: list[Row], args: argparse.Namespace) -> None:
    """Writes the document of all rows that have reports, and its pictures and figures beside it."""
    found = [row for row in rows if report_of(row.name, args.sets[0], args).exists()]
    parts, figures = [INTRODUCTION.format(minutes=args.minutes, names=", ".join(row.name for row in found))], {}
    parts.append(_costs(found, args))
    for title, chosen in (
        ("Super-resolution", [row for row in found if not row.own_lr]),
        ("Rescaling", [row for row in found if row.own_lr]),
    ):
        for images in args.sets:
            reports = [_named(name, images, args) for name in ("bicubic", *(row.name for row in chosen))]
            table = args.runs / f"{title}-{images}.md"
            _hcflow("report", *reports, "-o", table, "--overwrite")
            parts.append(f"## {title}, {images}\n{table.read_text()}")
            figures |= {report.stem: json.loads(report.read_text())["mean"]["temperature"] for report in reports}
        if chosen:
            path = args.output.with_name(f"{args.output.stem}-{title.lower()}.jpg")
            write_image(path, _picture(chosen, args), quality=92)
            parts.append(f"![{title}: parts of photographs that no row was trained on]({path.name})\n")
    args.output.write_text("\n".join(parts))
    args.output.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"table: {args.output}")


def _named(name: str, images: str, args: argparse.Namespace) -> pathlib.Path:
    """A copy of a report that calls the model by its row's name, not by its folder."""
    report = report_of(name, images, args)
    copy = args.runs / "named" / report.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps(json.loads(report.read_text()) | {"model": name}))
    return copy


def _picture(rows: list[Row], args: argparse.Namespace) -> np.ndarray:
    """All rows' images of scikit-image's photographs, at the temperatures of the tables."""
    scalers = {row.name: Scaler(open_runtime(model_of(row, args))) for row in rows}
    panels = []
    for path in held_out_photographs():
        hr, lr = load_pair(Pair(path), 4)
        (bicubic,), figures = Evaluation(Scaler(open_runtime("bicubic")), hr, lr).sample(0.0, 1)
        shown = [(f"bicubic, {figures['psnr_y']:.2f} dB", centre(bicubic))]
        for row in rows:
            evaluation = Evaluation(scalers[row.name], hr, lr, likelihood=False)
            for temperature in (0.0, 0.8) if row.draws else (0.0,):
                (image,), figures = evaluation.sample(temperature, 1)
                name = f"{row.name} {temperature:g}" if row.draws else row.name
                shown.append((f"{name}, {figures['psnr_y']:.2f} dB", centre(image)))
        panels.append([*shown, (f"original, {path.stem}", centre(hr))])
    return picture(panels)


INTRODUCTION = """# Rival systems at equal expense

Written by `python benchmarks/comparison.py` (`make comparison`): {names}
at compact size, each trained for {minutes:g} minutes of one core on the 400 photographs of BSDS500 with the recipes of
`configs/comparison/`, by this program, one seed. Small models after a short training say how the systems compare at that
expense, no more: the published figures of the full ones are in README, and what this says is read in [systems](systems.md).
Temperatures other than 0: five samples, means. LR-PSNR of super-resolution is that of the encoder's LR
image; SRFlow and RRDB encode none. Bits per dimension of SRFlow are of HR given LR, those of HCFlow as well, but with the LR
image's own error: compare them within a system.
"""


def _costs(rows: list[Row], args: argparse.Namespace) -> str:
    from hcflow_tf.models.complexity import measure as costs
    from hcflow_tf.weights.store import read_model

    seconds, lines = _seconds_per_megapixel(rows, args), []
    for row in rows:
        config, weights = read_model(model_of(row, args))
        cost = costs(config, {name: array.shape for name, array in weights.items()})
        plans = [
            json.loads(run_of(row, stage, args).with_name(f"{stage}.json").read_text()) for stage in range(1, len(row.stages) + 1)
        ]
        lines.append(
            [
                row.name,
                f"{sum(cost.parameters.values()):,}",
                f"{sum(cost.multiply_adds.values()):,.0f}",
                " + ".join(f"{plan['steps']:,}" for plan in plans),
                f"{statistics.median(seconds[row.name]):.2f} ({min(seconds[row.name]):.2f} to {max(seconds[row.name]):.2f})",
            ]
        )
    header = ["system", "weights", "multiply-adds per HR pixel", "steps", "seconds per HR megapixel, two threads"]
    return markdown_table(header, lines)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *lines))


def _seconds_per_megapixel(rows: list[Row], args: argparse.Namespace, rounds: int = 7) -> dict[str, list[float]]:
    """Of decoding a photograph of 128 x 128 at temperature 0, all systems in turn."""
    scalers = {row.name: Scaler(open_runtime(model_of(row, args))) for row in rows}
    lr = read_image(held_out_photographs()[0]).rgb_uint8[100:228, 100:228] / np.float32(255)
    seconds: dict[str, list[float]] = {name: [] for name in scalers}
    for number in range(rounds + 1):
        for name, scaler in scalers.items():
            start = time.perf_counter()
            hr = scaler.upscale(lr)
            if number:  # the first round builds the graphs
                seconds[name].append((time.perf_counter() - start) / (hr.shape[0] * hr.shape[1] / 1e6))
    return seconds


if __name__ == "__main__":
    main()
