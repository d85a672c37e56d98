"""Thousands of lying images, configs and weight files through the commands: one clear line each, nothing half written.

`python -m fuzz FOLDER` in this folder runs the same and prints what it finds; see fuzz/__main__.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import pytest
from fuzz.harness import MARKER, Harness

from hcflow_tf.support.errors import HCFlowError

TESTS = pathlib.Path(__file__).parent
HAS_TORCH = importlib.util.find_spec("torch") is not None
KINDS = {"images", "configs", "model configs", "npz"} | ({"pth"} if HAS_TORCH else set())


def fuzz(folder: pathlib.Path, share: float) -> dict:
    """Runs the harness in a process of its own, whose memory it limits; returns its report."""
    folder = folder / "fuzz"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}", "TF_NUM_INTRAOP_THREADS": "1"}
    command = [sys.executable, "-m", "fuzz", str(folder), "--share", str(share)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS, errors="backslashreplace")
    lines = done.stdout.splitlines()
    failures = [line for line in lines if line.startswith("FAILED")]
    assert not failures, "\n".join(failures[:20])
    assert done.returncode == 0, f"ended at {(folder / 'current.txt').read_text()}:\n{done.stderr[-3000:]}"
    report = json.loads(lines[-1])
    print(report)
    assert report["failures"] == 0
    return report


def test_some_hundreds_of_lying_inputs(tmp_path):
    report = fuzz(tmp_path, share=0.15)
    assert {kind for kind, count in report["inputs"].items() if count >= 20} == KINDS
    assert sum(report["inputs"].values()) >= 350


@pytest.mark.slow
def test_thousands_of_lying_inputs(tmp_path):
    report = fuzz(tmp_path, share=1.0)
    assert {kind for kind, count in report["inputs"].items() if count >= 150} == KINDS
    assert sum(report["inputs"].values()) >= 2000
    # Not everything is refused: what is exotic but whole gives a result.
    for command in ("upscale", "downscale", "evaluate", "prepare", "info", *(["convert"] if HAS_TORCH else [])):
        assert report["exit codes"][f"{command} 0"] >= 10, command


# The harness sees what it is there to see.


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """In a folder of its own, to which it changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Harness(tmp_path)


def raises(error: Exception):
    """A command that ends so."""

    def run(args):
        raise error

    return run


def writes(path: str, content: bytes, code: int = 0):
    """A command that writes this and ends with this exit code."""

    def run(args):
        pathlib.Path(path).parent.mkdir(exist_ok=True)
        pathlib.Path(path).write_bytes(content)
        if code:
            raise HCFlowError("in.png: bad")

    return run


@pytest.mark.parametrize(
    ("run", "finding"),
    [
        (raises(ValueError("in.png")), "internal error"),
        (raises(HCFlowError("something is bad")), "no input is named"),
        (raises(SystemExit(3)), "exit code 3"),
        (lambda args: 1, "exit code 1 with 0 complaints"),
        (lambda args: os.write(2, b"libtiff: bad strip\n") and 0, "stray line on stderr: libtiff: bad strip"),
        (lambda args: print("hcflow fake: in.png \x1b[2J", file=sys.stderr), "unclear line"),
        (lambda args: None, "there is no output"),
        (writes("out/a.png", b"\x89PNG half"), "out/a.png is not whole"),
        (writes("out/a.json", b'{"psnr": NaN}'), "out/a.json is not whole"),
        (writes("out/.a-x7.png", b"", code=1), "left out/.a-x7.png behind"),
        (writes(".out-x7.png", b"", code=1), "left .out-x7.png behind"),
        (writes(MARKER, b"", code=1), "executed code"),
    ],
)
def test_harness_notes(run, finding, harness, monkeypatch):
    module = types.ModuleType("hcflow_tf.fake")
    module.add_arguments, module.run = lambda parser: None, run
    monkeypatch.setitem(sys.modules, "hcflow_tf.fake", module)
    harness.command("fake", [], inputs=["in.png"], output="out")
    assert any(finding in failure for failure in harness.failures), harness.failures


def test_harness_is_content_with_what_is_promised(harness, monkeypatch):
    module = types.ModuleType("hcflow_tf.fake")
    module.add_arguments, module.run = lambda parser: None, raises(HCFlowError("in.png: truncated"))
    monkeypatch.setitem(sys.modules, "hcflow_tf.fake", module)
    assert harness.command("fake", [], inputs=["in.png"], output="out") == 1
    assert harness.failures == []
    assert (dict(harness.counts), dict(harness.codes)) == ({"fake": 1}, {"fake 1": 1})


def test_harness_measures_time(harness, monkeypatch):
    monkeypatch.setattr("fuzz.harness.SECONDS", 0.05)
    with harness.watched("work", "slow.png"):
        sum(range(20_000_000))
    assert "slow.png: took" in harness.failures[0]
