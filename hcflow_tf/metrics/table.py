"""Metrics as a text table with aligned columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of aligned columns, the first to the left, the others (numbers) to the right, a rule under the header.

    Every row has as many cells as the header; raises ValueError otherwise. No newline at the end.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(_join(line, widths) for line in lines)


def metrics_table(rows: Mapping[str, Mapping[str, float]], label: str = "image") -> str:
    """A table of metrics: one line per row name, one column per metric in order of first appearance.

    Args:
      rows: {row name: {metric: value}}; a metric that a row lacks shows as "-".
      label: header of the column of row names.
    """
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    cells = [[row, *(format_metric(name, metrics.get(name)) for name in names)] for row, metrics in rows.items()]
    return format_table([label, *names], cells)


def format_metric(name: str, value: float | None) -> str:
    """The value with as many decimals as the field's tables give: SSIM and LPIPS four, bits per dimension three, others two."""
    if value is None:
        return "-"
    decimals = 4 if name.startswith(("ssim", "lpips")) else 3 if name == "bits_per_dim" else 2
    return f"{value:.{decimals}f}"


def higher_is_better(name: str) -> bool:
    """Whether more of this figure is better: dB, SSIM, diversity; not so for distances, NIQE, BRISQUE and bits."""
    return not name.startswith(("niqe", "brisque", "lpips", "bits_per_dim"))


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers]).rstrip()
