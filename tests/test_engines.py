"""Model directories in other engines: equal results, files that belong to one model, choices that are explained."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hcflow_tf.runtimes import engines
from hcflow_tf.runtimes.engines import EngineRuntime
from hcflow_tf.runtimes.keras import KerasRuntime
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.runtimes.runtime import Runtime
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError
from hcflow_tf.support.latents import latent_shapes
from hcflow_tf.weights.store import save_model
from tests.tiny import photograph, tiny_model

for needed in ("onnxruntime", "openvino", "ai_edge_litert"):
    pytest.importorskip(needed, reason="needs the extra [openvino]")

ROOT = pathlib.Path(__file__).parents[1]
LR = photograph(12, 16)[None].astype(np.float32) / 255
KINDS = [
    (engine, precision) for engine, precisions in engines.PRECISIONS.items() for precision in precisions if engine != "keras"
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache of one's own, shared by this file's tests."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("models")
    save_model(tiny_model("super_resolution"), folder / "super_resolution")
    save_model(tiny_model("rescaling", scale=2, padding="replicate"), folder / "rescaling")
    return folder


def drawn(runtime: Runtime, temperature: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = latent_shapes(*LR.shape[1:3], runtime.scale, runtime.latents)
    return [temperature * rng.standard_normal([1, *shape]).astype(np.float32) for shape in shapes]


def has_bfloat16() -> bool:
    from hcflow_tf.runtimes import openvino

    return "BF16" in openvino._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """What is exported again and again, of one level; and a cache of its own."""
    folder = tmp_path_factory.mktemp("small")
    save_model(tiny_model("rescaling", scale=2), folder / "model")
    return folder / "model", folder / "cache"


@pytest.mark.parametrize("task", ["super_resolution", "rescaling"])
@pytest.mark.parametrize(("engine", "precision"), KINDS)
def test_equals_the_weights(models, task, engine, precision):
    if precision == "bfloat16" and not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    path = models / task
    keras = KerasRuntime(path, guard=False)
    runtime = open_runtime(path, engine=engine, precision=precision, guard=False)
    assert isinstance(runtime, EngineRuntime)
    for fact in (
        "name",
        "scale",
        "makes_lr",
        "latents",
        "overlap",
        "decode_bytes",
        "can_encode",
        "can_downscale",
        "has_likelihood",
    ):
        assert getattr(runtime, fact) == getattr(keras, fact), fact
    for temperature in (0.0, 0.7):
        latents = drawn(keras, temperature)
        expected = keras.decode(LR, latents)
        error = np.abs(runtime.decode(LR, latents) - expected)
        if precision == "float32":
            assert error.max() < 1e-4 * np.abs(expected).max()
        else:
            assert error.max() > 1e-5  # it does compute in less
            assert error.mean() < 0.03 * np.abs(expected).max()  # of random weights; of the shipped ones: docs/performance.md
    hr = photograph(12 * keras.scale, 16 * keras.scale)[None].astype(np.float32) / 255
    np.testing.assert_allclose(runtime.downscale(hr), keras.downscale(hr), atol=1e-4)  # in float32 always
    lr, latents = runtime.encode(hr)
    np.testing.assert_array_equal(lr, keras.encode(hr)[0])
    if keras.has_likelihood:
        np.testing.assert_array_equal(runtime.log_prob(hr, LR), keras.log_prob(hr, LR))


def test_precision_chooses_the_engine(models):
    path = models / "rescaling"
    assert isinstance(open_runtime(path), KerasRuntime)
    chosen = open_runtime(path, precision="int8", guard=False)
    np.testing.assert_array_equal(
        chosen.decode(LR, drawn(chosen, 0.5)),
        open_runtime(path, engine="litert", precision="int8", guard=False).decode(LR, drawn(chosen, 0.5)),
    )


def test_files_belong_to_one_model_and_are_made_once(models, cache, capsys, tmp_path):
    path = models / "rescaling"
    open_runtime(path, engine="onnx", guard=False)
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*.onnx/*")}
    capsys.readouterr()
    open_runtime(path, engine="openvino", guard=False)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.onnx/*")} == before
    assert capsys.readouterr().err == ""
    other = tiny_model("rescaling")
    other.weights[0].assign_add(np.ones(other.weights[0].shape, np.float32))
    save_model(other, tmp_path / "other")
    runtime = open_runtime(tmp_path / "other", engine="onnx", guard=False)
    assert "exporting it once" in capsys.readouterr().err
    np.testing.assert_allclose(runtime.decode(LR, drawn(runtime, 0)), other.decode(LR, None).numpy(), atol=1e-3)


def test_unfinished_files_are_made_again(models, cache, capsys):
    path = models / "super_resolution"
    open_runtime(path, engine="onnx", guard=False)
    for facts in cache.rglob(engines.FACTS_FILE):
        facts.write_text("{")
    capsys.readouterr()
    assert open_runtime(path, engine="onnx", guard=False).decode(LR, drawn(KerasRuntime(path), 0)).shape == (1, 48, 64, 3)
    assert "exporting it once" in capsys.readouterr().err


def test_an_exported_file_in_either_engine(models, cache):
    open_runtime(models / "super_resolution", engine="onnx", guard=False)
    file = next(file for file in cache.rglob("decoder.onnx") if not file.with_name("decoder_encoder.onnx").exists())
    onnx, openvino = open_runtime(file), open_runtime(file, engine="openvino")
    assert type(onnx) is not type(openvino)
    latents = drawn(onnx, 0.5)
    np.testing.assert_allclose(onnx.decode(LR, latents), openvino.decode(LR, latents), atol=1e-4)
    with pytest.raises(UsageError, match=r"no engine for .*decoder.onnx has it; give the model directory"):
        open_runtime(file, engine="onnx", precision="int8")
    with pytest.raises(
        UsageError, match=r"--runtime litert does not read .*decoder.onnx: a .onnx file is run by onnx or openvino"
    ):
        open_runtime(file, engine="litert")
    if has_bfloat16():
        assert type(open_runtime(file, precision="bfloat16")) is type(openvino)
    with pytest.raises(HCFlowError, match="cannot be run"):
        openvino.decode(LR[..., :2], latents)


def test_a_damaged_file_is_one_line(tmp_path, capfd):
    (tmp_path / "a.onnx").write_bytes(b"no model" * 100)
    with pytest.raises(HCFlowError, match=r"a.onnx is not a readable .onnx file"):
        open_runtime(tmp_path / "a.onnx", engine="openvino")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "onnx", "precision": "int8"}, "--precision int8: onnx computes in float32; take --runtime litert"),
        (
            {"engine": "keras", "precision": "bfloat16"},
            "--precision bfloat16: keras computes in float32; take --runtime openvino",
        ),
    ],
)
def test_an_engine_without_the_precision(models, options, said):
    with pytest.raises(UsageError, match=f"^{said}$"):
        open_runtime(models / "rescaling", **options)


def test_what_has_no_choice_says_so():
    with pytest.raises(
        UsageError, match=r"--runtime onnx: is for model directories, .onnx and .tflite files, bicubic has only auto"
    ):
        open_runtime("bicubic", engine="onnx")


def test_the_fastest_is_measured_once(models, cache, capsys):
    path, many = models / "super_resolution", 10**7
    runtime = open_runtime(path, pixels=many, guard=False)
    said = capsys.readouterr().err
    (record,) = cache.rglob(engines.FASTEST_FILE)
    seconds = json.loads(record.read_text())
    assert set(seconds) == {"keras", "openvino"}
    assert f"--runtime {min(seconds, key=seconds.get)}, measured here" in said
    for best in seconds:
        record.write_text(json.dumps({engine: 1.0 + (engine != best) for engine in seconds}))
        runtime = open_runtime(path, pixels=many, guard=False)
        assert isinstance(runtime, EngineRuntime) == (best == "openvino")
        assert "float32.onnx" not in capsys.readouterr().err


def test_auto_does_not_fail_where_the_engine_cannot_be_made_ready(models, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    assert isinstance(open_runtime(models / "rescaling", pixels=10**7), KerasRuntime)
    assert "runs with --runtime keras: " in capsys.readouterr().err
    with pytest.raises(HCFlowError, match="Not a directory; XDG_CACHE_HOME names another place"):
        open_runtime(models / "rescaling", precision="int8")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("decoder.onnx", lambda content: None),
        ("decoder.onnx", lambda content: b""),
        ("decoder.onnx", lambda content: content[: len(content) // 2]),
        ("decoder_encoder.onnx", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        (engines.FACTS_FILE, lambda content: content.replace(b'"overlap": ', b'"overlap": 1')),
        (engines.FACTS_FILE, lambda content: b"[]"),
    ],
)
def test_what_is_damaged_or_gone_is_made_again(small_model, monkeypatch, capsys, file, damage):
    path, cache = small_model
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    engine = open_runtime(path, engine="onnx", guard=False)
    for found in (files := list(cache.rglob(file))):
        content = damage(found.read_bytes())
        found.unlink() if content is None else found.write_bytes(content)
    assert files
    capsys.readouterr()
    again = open_runtime(path, engine="onnx", guard=False)
    assert "exporting it once" in capsys.readouterr().err
    assert again.overlap == engine.overlap
    np.testing.assert_array_equal(again.decode(LR, drawn(again, 0)), engine.decode(LR, drawn(engine, 0)))


@pytest.mark.parametrize("record", ["{}", "[]", '{"foo": 1.0}', '{"openvino": NaN, "keras": 1.0}'])
def test_a_damaged_measurement_is_made_again(models, cache, capsys, record):
    path = models / "super_resolution"
    open_runtime(path, pixels=10**7, guard=False)
    for file in (files := list(cache.rglob(engines.FASTEST_FILE))):
        file.write_text(record)
    open_runtime(path, pixels=10**7, guard=False)
    assert files
    assert any("keras" in json.loads(file.read_text()) for file in files)
    assert "measured here" in capsys.readouterr().err


def test_openvino_reports_nothing_to_its_makers(tmp_path):
    """Importing it would write an identity of the user into his home, and send an event."""
    program = "from hcflow_tf.runtimes import openvino; openvino._core()"
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


SIGNAL = """
import gc, os, signal, sys
from hcflow_tf.runtimes.openvino import OpenVINORuntime
first, second = OpenVINORuntime(sys.argv[1]), OpenVINORuntime(sys.argv[1])
signal.signal(signal.SIGINT, lambda *_: print("handled"))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_is_handled_after_openvino_ran(models, cache):
    """Its plugin replaces the stack on which signals are handled, and did not give it back."""
    open_runtime(models / "rescaling", engine="onnx", guard=False)
    file = next(cache.rglob("decoder.onnx"))
    run = subprocess.run([sys.executable, "-c", SIGNAL, file], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr


def test_the_commands(models, cache, tmp_path, capsys, monkeypatch):
    Image.fromarray(photograph(24, 20)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    model = str(models / "rescaling")
    common = ["a.png", "--model", model, "--no-guard", "--overwrite"]
    images = {}
    for engine in ("keras", "openvino", "onnx", "litert"):
        assert cli.execute("upscale", [*common, "-o", f"{engine}.png", "--runtime", engine]) == 0
        with Image.open(f"{engine}.png") as image:
            images[engine] = np.asarray(image).astype(int)
        assert np.abs(images[engine] - images["keras"]).max() <= 1
    assert cli.execute("downscale", ["a.png", "--model", model, "-o", "lr.png", "--runtime", "openvino"]) == 0
    assert cli.execute("upscale", [*common, "-o", "b.png", "--precision", "int8", "--runtime", "openvino"]) == 2
    assert "openvino computes in float32 or bfloat16; take --runtime litert" in capsys.readouterr().err
    assert cli.execute("evaluate", ["--images", "x", "--hr", ".", "--precision", "int8"]) == 2


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them fails
from hcflow_tf.support import cli
sys.exit(cli.execute("upscale", sys.argv[1:]))
"""


def test_the_second_start_needs_no_tensorflow(models, cache, tmp_path):
    Image.fromarray(photograph(24, 20)).save(tmp_path / "a.png")
    for engine, precision in (("openvino", "float32"), ("litert", "int8")):
        open_runtime(models / "rescaling", engine=engine, precision=precision)
        arguments = [
            "a.png",
            "-o",
            f"{engine}.png",
            "--model",
            models / "rescaling",
            "--runtime",
            engine,
            "--precision",
            precision,
        ]
        code = [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, arguments)]
        done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
