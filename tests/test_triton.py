"""The Triton repository entry: files and refusals here, and, where a server is installed, its answers to Triton's client."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from typing import NamedTuple

import numpy as np
import pytest
from exports import export
from tiny import photograph, tiny_model

from hcflow_tf.config import SRFlowConfig
from hcflow_tf.images.images import quantize
from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.models.guard import ensure_guard
from hcflow_tf.models.systems import make_model
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.weights.store import save_model

CLIENT = """
import sys
import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1], concurrency=8, network_timeout=120, connection_timeout=120)
data = dict(np.load(sys.argv[2]))

def ask(name):
    image = data[name]
    inputs = [http.InferInput("image", [1, *image.shape], "UINT8")]
    inputs[0].set_data_from_numpy(image[None])
    if name != "plain":
        for key, kind, value in (("temperature", "FP32", np.float32([[0.8]])), ("seed", "INT64", np.int64([[int(name)]]))):
            inputs.append(http.InferInput(key, [1, 1], kind))
            inputs[-1].set_data_from_numpy(value)
    return client.async_infer("tiny", inputs)

waiting = {name: ask(name) for name in data}
np.savez(sys.argv[3], **{name: request.get_result().as_numpy("enlarged")[0] for name, request in waiting.items()})
statistics = client.get_inference_statistics("tiny")["model_stats"][0]
print(statistics["inference_count"], statistics["execution_count"])
"""


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """(a tiny x4 model's directory, its repository entry)."""
    root = tmp_path_factory.mktemp("triton")
    save_model(tiny_model("super_resolution", scale=4), root / "model")
    assert export("triton", "--model", root / "model", "--output", root / "repository/tiny") == 0
    return root / "model", root / "repository/tiny"


def test_a_model_whose_latents_are_smaller_than_lr(tmp_path, monkeypatch):
    """The program as Triton would run it, of an SRFlow model and an image of odd size."""
    tensors = types.ModuleType("triton_python_backend_utils")
    tensors.get_input_tensor_by_name = lambda request, name: request.get(name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", tensors)
    config = {"steps": 1, "plain_steps": 1, "width": 3, "rrdb_blocks": 1, "rrdb_features": 3, "rrdb_growth": 2}
    model, rng = make_model(SRFlowConfig(stacked_blocks=(0,), **config)), np.random.default_rng(0)
    for variable in model.weights:
        variable.assign_add(0.03 * rng.standard_normal(variable.shape))
    ensure_guard(model)
    save_model(model, tmp_path / "model")
    assert export("triton", "--model", tmp_path / "model", "--output", tmp_path / "tiny", guard=True) == 0
    specification = importlib.util.spec_from_file_location("triton_program", tmp_path / "tiny/1/model.py")
    program = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(program)
    served = program.TritonPythonModel()
    served.initialize({"model_repository": str(tmp_path / "tiny"), "model_version": "1"})

    class Tensor(NamedTuple):
        value: np.ndarray

        def as_numpy(self) -> np.ndarray:
            return self.value

    image = photograph(9, 13)
    request = {"image": image[None], "temperature": np.float32([[0.8]]), "seed": np.int64([[5]])}
    (enlarged,) = served._enlarge([{name: Tensor(value) for name, value in request.items()}])
    expected = Scaler(open_runtime(tmp_path / "model"), 0).upscale(image.astype(np.float32) / np.float32(255), 0.8, seed=5)
    assert enlarged.shape == (1, 36, 52, 3)
    assert np.abs(enlarged[0] - 255 * expected).max() < 0.51


def test_files(entry, capsys):
    model, directory = entry
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()) == [
        "1/decoder.onnx",
        "1/model.py",
        "config.pbtxt",
    ]
    assert 'name: "tiny"' in (directory / "config.pbtxt").read_text()
    assert export("triton", "--model", model, "--output", directory) == 2
    assert "exists already" in capsys.readouterr().err


def test_latents_of_the_program(entry, monkeypatch):
    """Written again with NumPy: the same values as TensorFlow's."""
    import types

    import tensorflow as tf

    from hcflow_tf.models.latents import draw_latents

    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    from hcflow_tf.runtimes import triton_model

    for seed in (0, 7, -5, 2**40 + 7):
        shapes = [(6, 7, 6), (3, 3, 21)]
        expected = draw_latents(tf.constant([seed], tf.int64), 0.8, shapes)
        for level, shape in enumerate(shapes, start=1):
            ours = triton_model.draw_latents(seed, level, shape, 0.8)
            np.testing.assert_allclose(ours, expected[level - 1][0], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def server(entry, tmp_path_factory):
    """A running tritonserver: (folder of its packages, its HTTP address)."""
    if not (name := os.environ.get("HCFLOW_TRITON")):
        pytest.skip("no Triton server (make test-triton installs one; HCFLOW_TRITON names a folder with nvidia-pytriton in it)")
    packages, root = pathlib.Path(name).resolve(), tmp_path_factory.mktemp("server")
    triton = packages / "pytriton/tritonserver"
    stub = triton / "python_backend_stubs/{}.{}/triton_python_backend_stub".format(*sys.version_info)
    if not stub.is_file():
        pytest.skip(f"this Triton server has no stub for Python {sys.version_info[0]}.{sys.version_info[1]}")
    shutil.copytree(triton / "backends/python", root / "backends/python")
    shutil.copy(stub, root / "backends/python")
    (root / "backends/python" / stub.name).chmod(0o755)
    repository = root / "repository"
    shutil.copytree(entry[1].parent, repository)
    # The server's Python does not look at PYTHONPATH, but beside model.py.
    for package in ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "packaging", "google"):
        (repository / "tiny/1" / package).symlink_to(packages / package)
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    program = triton / "bin/tritonserver"
    program.chmod(0o755)
    command = [program, "--model-repository", repository, "--backend-directory", root / "backends", "--allow-metrics", "false"]
    command += ["--http-address", "127.0.0.1", "--http-port", ports[0], "--grpc-address", "127.0.0.1", "--grpc-port", ports[1]]
    environment = os.environ | {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v2/health/ready", timeout=5).close()
                break
            except OSError:
                pass
            assert process.poll() is None and time.monotonic() < deadline, (root / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield packages, f"127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_server(entry, server, tmp_path):
    """Eight requests at once: everyone's own picture, and fewer calls of the model than pictures."""
    packages, address = server
    images = {"plain": photograph(9, 11)} | {str(seed): photograph(12, 16, seed=seed) for seed in range(24)}
    np.savez(tmp_path / "in.npz", **images)
    environment = os.environ | {"PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", CLIENT, address, tmp_path / "in.npz", tmp_path / "out.npz"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    inferences, executions = map(int, finished.stdout.split())
    assert inferences == 25
    assert executions < 25
    scaler, enlarged = Scaler(open_runtime(entry[0])), np.load(tmp_path / "out.npz")
    for name, image in images.items():
        temperature, seed = (0.0, 0) if name == "plain" else (0.8, int(name))
        expected = quantize(scaler.upscale(image / np.float32(255), temperature, seed))
        assert np.abs(enlarged[name].astype(int) - expected).max() <= 1, name
    body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 0, 4, 3], "data": []}]}
    request = urllib.request.Request(f"http://{address}/v2/models/tiny/infer", json.dumps(body).encode())
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=60)
    urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=5).close()  # and it goes on
