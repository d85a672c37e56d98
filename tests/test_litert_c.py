"""The C example over LiteRT's library: the same picture as Python, and errors in one line."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from exports import export
from PIL import Image
from tiny import photograph, tiny_model

from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.weights.store import save_model

SIZE = (16, 24)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """(the program, a .tflite file of SIZE)."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent / "native"))
    import build

    if build.compiler() is None:
        pytest.skip("no C compiler (cc, or name one by CC)")
    folder = tmp_path_factory.mktemp("litert")
    build.build("litert_decode", folder / "decode")
    save_model(tiny_model("super_resolution", scale=4), folder / "model")
    size = "x".join(map(str, SIZE))
    assert export("tflite", "--model", folder / "model", "--output", folder / "m.tflite", "--lr-size", size) == 0
    return folder / "decode", folder / "m.tflite"


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("temperature", "seed"), [(0, 0), (0.8, 7), (0.8, -(2**40))])
def test_decodes_as_python(decoder, tmp_path, temperature, seed):
    program, model = decoder
    lr = photograph(*SIZE)
    Image.fromarray(lr).save(tmp_path / "lr.ppm")
    finished = run(program, model, tmp_path / "lr.ppm", tmp_path / "hr.f32", temperature, seed)
    assert finished.returncode == 0, finished.stderr
    runtime = open_runtime(model)
    image = lr / np.float32(255)
    latents = Scaler(runtime)._draw_latents(*SIZE, temperature, seed)
    expected = runtime.decode(image[None], [z[None] for z in latents])[0]
    hr = np.fromfile(tmp_path / "hr.f32", np.float32).reshape(expected.shape)
    assert np.abs(hr - expected).max() <= 1e-4 * np.abs(expected).max()
    assert run(program, model, tmp_path / "lr.ppm", tmp_path / "hr.ppm", temperature, seed).returncode == 0
    written = np.asarray(Image.open(tmp_path / "hr.ppm")).astype(np.float32)
    assert np.abs(written - 255 * np.clip(hr, 0, 1)).max() <= 0.501


def test_errors(decoder, tmp_path):
    program, model = decoder
    Image.fromarray(photograph(8, 8)).save(tmp_path / "small.ppm")
    (tmp_path / "text.ppm").write_text("no picture")
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    for arguments, message in (
        ((model, tmp_path / "small.ppm"), "is 8 x 8, the model takes 24 x 16"),
        ((model, tmp_path / "text.ppm"), "not a binary PPM file"),
        ((model, tmp_path / "none.ppm"), "cannot be read"),
        ((tmp_path / "broken.tflite", tmp_path / "small.ppm"), "LiteRT error"),
    ):
        finished = run(program, *arguments, tmp_path / "out.ppm")
        assert finished.returncode == 1
        assert message in finished.stderr.splitlines()[-1]
        assert not (tmp_path / "out.ppm").exists()
