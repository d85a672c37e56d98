"""The documents: the site builds without a broken link."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def test_site_builds_without_a_broken_link(tmp_path):
    missing = [name for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (pip install -e '.[docs]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    reference = (tmp_path / "reference/models.html").read_text(encoding="utf-8")
    assert 'id="hcflow_tf.models.flow_model.FlowModel.sample"' in reference
    flow = (tmp_path / "flow.html").read_text(encoding="utf-8")
    assert flow.count("<math") > 20
    assert "FORMULA" not in flow
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert "fonts.googleapis" not in page.read_text(encoding="utf-8")  # nothing is loaded from elsewhere
