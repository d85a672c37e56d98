"""Puts reports of `evaluate` side by side in one table: Markdown on the screen and in a file, and the same as CSV.

    hcflow report bicubic.json sr-x4-compact.json other.json -o table.md

One row per report, in the given order (per temperature where a report holds several), one column per figure. The best
figure of a column is bold, the second underlined; equal as printed counts as equal. CSV holds all digits.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from hcflow_tf.images import batch
from hcflow_tf.support import cli
from hcflow_tf.support.errors import UsageError
from hcflow_tf.support.files import check_targets, read_file, write_atomically

MAX_BYTES = 2**28
"""Of a report."""
ARROWS = {True: "↑", False: "↓"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    images: dict[str, dict[str, float]]
    """Image -> figure -> value."""

    def values(self, figure: str) -> list[float]:
        """Of the images that have it."""
        return [figures[figure] for figures in self.images.values() if figure in figures]

    def mean(self, figure: str) -> float | None:
        """Over the images; None where none has it."""
        values = self.values(figure)
        return statistics.fmean(values) if values else None

    def spread(self, figure: str) -> float | None:
        """Sample standard deviation over the images; None for fewer than two."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("reports", nargs="+", metavar="REPORT.json", help="written by evaluate --output")
    parser.add_argument("-o", "--output", metavar="TABLE.md", help="the table; it goes beside it as .csv, too")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the rows, one per report (default: the models' names)")
    parser.add_argument("--spread", action="store_true", help="add the standard deviation over the images")
    batch.add_overwrite_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.names and len(args.names) != len(args.reports):
        raise UsageError(f"--names: expected {len(args.reports)} names, one per report, got {len(args.names)}")
    targets = [pathlib.Path(args.output), pathlib.Path(args.output).with_suffix(".csv")] if args.output else []
    if len(set(targets)) < len(targets):
        raise UsageError(f"-o {args.output}: the table is Markdown and its CSV goes beside it; give a name that ends in .md")
    check_targets(targets, inputs=args.reports, overwrite=args.overwrite)
    rows = read_rows(args.reports, args.names)
    table = markdown(rows, spread=args.spread)
    print(table)
    for target, text in zip(targets, (table + "\n", comma_separated(rows, spread=args.spread)), strict=False):
        write_atomically(target, text.encode())


def read_rows(paths: Sequence[str], names: Sequence[str] | None = None) -> list[Row]:
    """The rows of several reports.

    Raises:
      UsageError: a file is no report, or has other metrics, another scale or other images than the first; names it.
    """
    reports = [_read(path) for path in paths]
    rows: list[Row] = []
    for number, (path, report) in enumerate(zip(paths, reports, strict=True)):
        _check_comparable(paths[0], reports[0], path, report)
        name = names[number] if names else str(report["model"])
        rows += _rows(name, report["images"])
    return rows


def figure_names(rows: Sequence[Row]) -> list[str]:
    """All figures, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for figures in row.images.values() for name in figures))


def markdown(rows: Sequence[Row], *, spread: bool = False) -> str:
    """The table, columns aligned, best bold and second underlined; an arrow says which way is better."""
    from hcflow_tf.metrics.table import format_metric, higher_is_better

    columns = [["model", *(" ".join(row.name.split()).replace("|", "\\|") for row in rows)]]
    for figure in figure_names(rows):
        means = [format_metric(figure, row.mean(figure)) for row in rows]
        means = [
            f"{mean} (of {count})" if 0 < (count := len(row.values(figure))) < len(row.images) else mean
            for row, mean in zip(rows, means, strict=True)
        ]
        better = higher_is_better(figure)
        cells = _mark(means, better)
        if spread:
            deviations = [row.spread(figure) for row in rows]
            cells = [
                cell if deviation is None else f"{cell} ± {format_metric(figure, deviation)}"
                for cell, deviation in zip(cells, deviations, strict=True)
            ]
        columns.append([f"{figure} {ARROWS[better]}", *cells])
    for number, column in enumerate(columns):
        width = max(map(len, column))
        column.insert(1, "-" * width if number == 0 else "-" * (width - 1) + ":")
        columns[number] = [cell.ljust(width) if number == 0 else cell.rjust(width) for cell in column]
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def comma_separated(rows: Sequence[Row], *, spread: bool = False) -> str:
    """The means, all digits, and the number of images; with `spread`, a column NAME_std after each figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = figure_names(rows)
    writer.writerow(["model", "images", *(name for figure in figures for name in (figure, f"{figure}_std")[: 1 + spread])])
    for row in rows:
        values = (value for figure in figures for value in (row.mean(figure), row.spread(figure))[: 1 + spread])
        writer.writerow([row.name, len(row.images), *("" if value is None else repr(value) for value in values)])
    return text.getvalue()


def _mark(cells: list[str], higher_is_better: bool) -> list[str]:
    """Bold for the best and underlined for the second of the printed values, where there are several of all images."""
    values = {cell: float(cell) for cell in cells if cell != "-" and "(" not in cell}
    ranked = sorted(set(values.values()), reverse=higher_is_better)
    marks = dict(zip(ranked, ("**{}**", "<u>{}</u>"), strict=False)) if len(ranked) > 1 else {}
    return [marks.get(values[cell], "{}").format(cell) if cell in values else cell for cell in cells]


def _rows(name: str, images: Mapping[str, Mapping]) -> list[Row]:
    """One row, or one per temperature."""
    temperatures = list(dict.fromkeys(tau for figures in images.values() for tau in figures.get("temperature", ())))
    if not temperatures:
        return [Row(name, {image: dict(figures) for image, figures in images.items()})]
    return [
        Row(
            name if len(temperatures) == 1 else f"{name}, tau {tau}",
            {image: dict(figures["temperature"].get(tau, {})) for image, figures in images.items()},
        )
        for tau in temperatures
    ]


def _read(path: str) -> dict:
    try:
        report = json.loads(read_file(path, limit=MAX_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON; expected a report of hcflow evaluate --output") from error
    if not _is_report(report):
        raise UsageError(f"{path}: is not a report of hcflow evaluate --output")
    return report


def _is_report(report: object) -> bool:
    if not isinstance(report, dict) or not isinstance(report.get("model"), str) or type(report.get("scale")) is not int:
        return False
    images = report.get("images")
    if not isinstance(images, dict) or not images:
        return False
    for figures in images.values():
        if not isinstance(figures, dict):
            return False
        by_temperature = figures.get("temperature", {})
        if not isinstance(by_temperature, dict):
            return False
        plain = {name: value for name, value in figures.items() if name != "temperature"}
        groups = (plain, *by_temperature.values())
        if not all(isinstance(group, dict) and all(map(_is_number, group.values())) for group in groups):
            return False
    return True


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _check_comparable(first_path: str, first: dict, path: str, report: dict) -> None:
    """One table compares like with like."""
    from hcflow_tf.metrics.report import VERSION

    version = report.get("metrics_version", "none")
    if version != VERSION:
        raise UsageError(f"{path}: holds metrics of version {version}, this program's are {VERSION}; evaluate again")
    if report["scale"] != first["scale"]:
        raise UsageError(f"{path}: is of scale {report['scale']}, {first_path} of {first['scale']}")
    other = sorted(report["images"].keys() ^ first["images"].keys())
    if other:
        holder, lacking = (path, first_path) if other[0] in report["images"] else (first_path, path)
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        where = f"{other[0]}{more} in {holder}, not in {lacking}"
        raise UsageError(f"{path}: was not measured on the images of {first_path}: {where}")


if __name__ == "__main__":
    raise SystemExit(cli.execute("report"))
