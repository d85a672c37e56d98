"""README's result tables are what the reports beside docs/results/evaluate.py say."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def results():
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs/results/evaluate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module  # dataclasses look there for the types of their fields
    spec.loader.exec_module(module)
    return module


def test_readme_is_what_the_script_writes(results):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.filled(text) == text, "run python docs/results/evaluate.py"


def test_a_number_typed_by_hand_is_undone(results):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cell = results.table("super-resolution").splitlines()[-1].split(" | ")[1]
    assert len(cell.split(" / ")) == 2
    assert results.filled(text.replace(cell, "40.00 / .9900")) == text


def test_a_table_without_its_marks_is_told(results):
    with pytest.raises(ValueError, match="expected one table between"):
        results.filled("no table here")


def test_reports_are_complete(results):
    counts = {"Set5": 5, "Set14": 14, "BSD100": 100}
    for model in ("bicubic", "rescale-x4-compact-3", "sr-x4-compact-3"):
        for images in results.SETS:
            report = json.loads(results.report_file(model, images).read_text())
            assert (report["model"], report["scale"], len(report["images"])) == (model, 4, counts[images])
            assert "failed" not in report
            mean = sum(figures["psnr_y"] for figures in report["images"].values()) / counts[images]
            assert report["mean"]["psnr_y"] == pytest.approx(mean, abs=1e-9)
