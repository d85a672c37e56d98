"""Shipped models at temperature 0 without TensorFlow: the same pictures, from files that belong to the weights."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hcflow_tf import list_models
from hcflow_tf.images.images import read_image, write_image
from hcflow_tf.runtimes import light
from hcflow_tf.runtimes.engines import EngineRuntime
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.onnx_export import store_in_float16
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support.latents import latent_shapes
from hcflow_tf.weights.shipped import ABOUT_FILE, DIRECTORY
from tests.tiny import photograph

ort = pytest.importorskip("onnxruntime", reason="needs the extra [export]")

WITH_FILES = ["rescale-x4-compact-3", "sr-x4-compact-3"]
"""The defaults of the commands."""
FEW = 480
NO_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them fails
from hcflow_tf.support import cli
sys.exit(cli.execute(sys.argv[1], sys.argv[2:]))
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(light, "GPU", tmp_path / "none")


@pytest.mark.parametrize("name", WITH_FILES)
def test_equals_the_weights(name):
    runtime, keras = open_runtime(name, pixels=FEW), KerasRuntime(name)
    assert isinstance(runtime, EngineRuntime)
    for fact in ("name", "scale", "makes_lr", "latents", "overlap", "decode_bytes", "can_encode", "has_likelihood"):
        assert getattr(runtime, fact) == getattr(keras, fact), fact
    lr = photograph(24, 20)[None].astype(np.float32) / 255
    zeros = [np.zeros([1, *shape], np.float32) for shape in latent_shapes(24, 20, keras.scale, keras.latents)]
    np.testing.assert_allclose(runtime.decode(lr, zeros), keras.decode(lr, zeros), atol=1e-4)
    hr = photograph(96, 80)[None].astype(np.float32) / 255
    np.testing.assert_allclose(runtime.downscale(hr), keras.downscale(hr), atol=1e-4)
    drawn = [np.full_like(zero, 0.5) for zero in zeros]
    np.testing.assert_array_equal(runtime.decode(lr, drawn), keras.decode(lr, drawn))


def test_constants_are_stored_in_half_the_space_where_that_is_exact():
    onnx = pytest.importorskip("onnx")
    helper, arrays = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((40, 40)).astype(np.float16).astype(np.float32)
    fifth = (0.2 * exact.astype(np.float64)).astype(np.float32)  # as the last convolutions of dense blocks in an RRDB are
    constants = {"exact": exact, "fifth": fifth, "inexact": exact * np.float32(0.3), "large": exact * np.float32(1e6)}
    constants["small"] = exact[:1]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "x"], [f"{name}_x"]) for name in constants],
        "g",
        [helper.make_tensor_value_info("x", 1, [40, 3])],
        [helper.make_tensor_value_info(f"{name}_x", 1, [len(array), 3]) for name, array in constants.items()],
        [arrays.from_array(array, name) for name, array in constants.items()],
    )
    x = rng.standard_normal((40, 3)).astype(np.float32)

    def run() -> list[np.ndarray]:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})

    before = run()
    store_in_float16(graph, only_exactly=True)
    types = [arrays.to_array(constant).dtype for constant in graph.initializer]
    assert types == [np.float16] * 2 + [np.float32] * 3 + [np.float64]
    for ours, expected in zip(run(), before, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("command", ["upscale", "downscale"])
def test_the_commands_need_no_tensorflow_for_a_small_picture(command, tmp_path):
    Image.fromarray(photograph(40, 36)).save(tmp_path / "a.png")
    arguments = [sys.executable, "-c", NO_TENSORFLOW, command, "a.png", "-o", "out"]
    subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    with Image.open(tmp_path / "out/a.png") as image:
        assert image.size == ((144, 160) if command == "upscale" else (9, 10))
    if command == "upscale":  # 16 bits in and out
        write_image(tmp_path / "b.png", photograph(40, 36).astype(np.uint16) * 257)
        arguments[-3] = "b.png"
        subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True, timeout=120)
        assert read_image(tmp_path / "out/b.png").bit_depth == 16
    sampled = subprocess.run([*arguments, "--samples", "2", "--overwrite"], cwd=tmp_path, capture_output=True, timeout=120)
    assert sampled.returncode  # without TensorFlow there are no samples


def test_onnx_runtime_reports_nothing_to_its_makers(tmp_path, monkeypatch):
    """By itself it writes an identity of the user into his home, and sends what it runs."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    Image.fromarray(photograph(24, 20)).save(tmp_path / "a.png")
    subprocess.run(
        [sys.executable, "-c", NO_TENSORFLOW, "upscale", "a.png", "-o", "b.png"], cwd=tmp_path, check=True, timeout=120
    )
    assert list((tmp_path / "home").iterdir()) == []


def test_tensorflow_runs_what_is_large(tmp_path):
    paths = []
    for index, size in enumerate([(300, 300), (300, 300)]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(paths[-1])
    (tmp_path / "2.png").write_bytes(b"no picture")
    paths.append(tmp_path / "2.png")
    assert light.count_pixels(paths, 10**9) == 180_000
    assert light.count_pixels(paths * 1000, 100_000) == 180_000  # no more than needed are read
    assert light.count_pixels(paths, 10**9, pixels_each=16) == 11_250
    assert isinstance(open_runtime(WITH_FILES[0], pixels=light.MAX_LR_PIXELS), EngineRuntime)
    assert isinstance(open_runtime(WITH_FILES[0], pixels=light.MAX_LR_PIXELS + 1), KerasRuntime)


def test_without_onnx_runtime_or_with_a_gpu_tensorflow_runs_it(monkeypatch, tmp_path):
    name = list_models()[0]
    with monkeypatch.context() as context:
        context.setattr(light.importlib.util, "find_spec", lambda module: None)
        assert isinstance(open_runtime(name, pixels=FEW), KerasRuntime)
    (tmp_path / "gpu").touch()
    monkeypatch.setattr(light, "GPU", tmp_path / "gpu")
    assert light.light_runtime(name) is None
    assert light.light_runtime(tmp_path) is None


def test_files_of_other_weights_are_not_taken():
    """`ship` writes a new about.json, which names no files until they were written again."""
    for name in list_models():
        about = json.loads((DIRECTORY / name / ABOUT_FILE).read_text())
        listed = {path.name for path in (DIRECTORY / name).iterdir()} - {ABOUT_FILE}
        assert listed == set(about["sha256"])
        assert (light.FILE in listed) == (name in WITH_FILES)
