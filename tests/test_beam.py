"""The Beam pipeline on the direct runner: the commands' pictures, bad files aside, and a run that goes on after a kill."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tiny import photograph, tiny_model

from hcflow_tf.inference.pictures import downscale_file, upscale_file
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support import cli
from hcflow_tf.weights.store import save_model

pytest.importorskip("apache_beam", reason="Apache Beam is not installed (make test-beam has an environment with it)")

ROOT = pathlib.Path(__file__).parents[1]
COUNT, BAD = 300, 5
TWO_PROCESSES = ("--runner", "DirectRunner", "--direct_num_workers", "2", "--direct_running_mode", "multi_processing")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a tiny rescaling model, x4."""
    folder = tmp_path_factory.mktemp("beam") / "model"
    save_model(tiny_model("rescaling", scale=4), folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """300 files of three sizes, 5 of them bad."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(COUNT):
        path = folder / f"p{index:03}.png"
        if index % 60 == 7:
            path.write_bytes(b"" if index < 60 else b"no picture")
        else:
            image = Image.fromarray(photograph(6 + index % 3, 8, seed=index))
            if index == 100:
                image.putalpha(Image.fromarray(np.tile(np.uint8([0, 0, 0, 90, 180, 255, 255, 255]), (image.height, 1))))
            image.save(path)
    return folder


def start(*arguments: object) -> subprocess.Popen:
    """The command in a process group of its own."""
    command = [sys.executable, "-m", "hcflow_tf.beam", *map(str, arguments)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_300_pictures_by_two_processes_killed_once(model, pictures, tmp_path):
    from hcflow_tf.inference.beam_pipeline import seed_of

    out, bad = tmp_path / "out", tmp_path / "bad.jsonl"
    arguments = ("--model", model, "--input", pictures / "*.png", "--output", out, "--dead-letter", bad)
    arguments += ("--temperature", "0.8", "--seed", "3", "--batch-size", "16", *TWO_PROCESSES)
    first = start(*arguments)
    try:
        deadline = time.monotonic() + 180
        while len(list(out.glob("*.png")) if out.is_dir() else ()) < 20:
            assert first.poll() is None, first.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    done = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert 20 <= len(done) < COUNT - BAD
    second = start(*arguments)
    error = second.communicate(timeout=300)[1]
    assert second.returncode == 1  # as of every batch with bad files
    made = COUNT - BAD - len(done)
    assert error.splitlines()[-1].startswith(f"{made} pictures, ")
    assert error.splitlines()[-1].endswith(f"{BAD} failed, {len(done)} skipped")
    assert sorted(path.name for path in out.iterdir()) == [f"p{i:03}.png" for i in range(COUNT) if i % 60 != 7]
    letters = {json.loads(line)["input"]: json.loads(line)["reason"] for line in bad.read_text().splitlines()}
    assert sorted(letters) == [str(pictures / f"p{i:03}.png") for i in range(COUNT) if i % 60 == 7]
    assert letters[str(pictures / "p007.png")] == "the file is empty"
    assert all("not a PNG" in reason for name, reason in letters.items() if not name.endswith("p007.png"))
    scaler = Scaler(open_runtime(model))
    for name in [*list(done)[:4], *(f"p{i:03}.png" for i in range(100, 112))]:
        upscale_file(scaler, pictures / name, [tmp_path / "same.png"], temperature=0.8, seed=seed_of(name, 3))
        ours, expected = (np.asarray(Image.open(path)).astype(int) for path in (out / name, tmp_path / "same.png"))
        # In a batch sums are rounded in another order, which moves a value at the edge of two levels.
        assert np.abs(ours - expected).max() <= 1
        assert (ours != expected).mean() < 1e-3


def test_downscale_evaluate_and_equal_names(model, tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(photograph(32, 41)).save(tmp_path / folder / "one.png")
    arguments = ["--model", str(model), "--input", str(tmp_path / "*/one.png"), "--output"]
    assert (
        cli.main(["beam", "--task", "downscale", *arguments, str(tmp_path / "small"), "--dead-letter", str(tmp_path / "bad")])
        == 1
    )
    letter = json.loads((tmp_path / "bad").read_text())
    assert letter["input"] == str(tmp_path / "b/one.png")
    assert letter["reason"].startswith(f"{tmp_path}/a/one.png is written to")
    downscale_file(Scaler(open_runtime(model)), tmp_path / "a/one.png", tmp_path / "same.png")
    assert (tmp_path / "small/one.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    arguments[3] = str(tmp_path / "a/one.png")
    assert cli.main(["beam", "--task", "evaluate", *arguments, str(tmp_path / "figures")]) == 0
    figures = json.loads((tmp_path / "figures/one.json").read_text())
    assert figures["image"] == "one.png"
    assert 5 < figures["psnr_y"] < 60
    capsys.readouterr()
    assert cli.main(["beam", "--task", "evaluate", *arguments, str(tmp_path / "figures")]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "0 pictures, 0.00 megapixels, 0 failed, 1 skipped"


def test_pictures_of_one_size_are_decoded_together(model, pictures, monkeypatch):
    from hcflow_tf.inference import beam_pipeline

    handler = beam_pipeline.PictureHandler(beam_pipeline.Work("upscale", str(model), "out"), 16)
    scaler = handler.load_model()
    decode, batches = scaler.runtime.decode, []
    monkeypatch.setattr(scaler.runtime, "decode", lambda lr, z: batches.append(lr.shape) or decode(lr, z))
    files = [pictures / f"p{index:03}.png" for index in range(9)]
    batch = [beam_pipeline.Picture(str(path), f"out/{path.name}", path.read_bytes()) for path in files]
    results = [prediction.inference for prediction in handler.run_inference(batch, scaler)]
    assert sorted(batches) == [(2, 7, 8, 3), (3, 6, 8, 3), (3, 8, 8, 3)]  # p007 is bad
    assert [bool(result.error) for result in results] == [index == 7 for index in range(9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "none/*.png"), "--input none/*.png: matches no file"),
        (("--input", "{pictures}/*.png", "--temprature", "1"), "--temprature: is an option neither of this command nor of Beam"),
    ],
)
def test_refusals(arguments, message, pictures, tmp_path, capsys):
    arguments = [argument.format(pictures=pictures) for argument in arguments]
    assert cli.main(["beam", *arguments, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"hcflow beam: {message}"
    assert not (tmp_path / "out").exists()
