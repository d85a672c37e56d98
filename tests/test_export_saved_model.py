"""SavedModel: every signature in a clean process, warm-up requests, refusals, and a real server where there is one."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from exports import EXPORT, export
from PIL import Image
from tiny import photograph, tiny_model

from hcflow_tf.images.images import quantize
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights.store import save_model

MAX_PIXELS = 32 * 32

CLEAN_PROCESS = """
import sys
import numpy as np
import tensorflow as tf

sys.modules["hcflow_tf"] = None  # importing it fails
loaded = tf.saved_model.load(sys.argv[1])
data = dict(np.load(sys.argv[2]))
results = {}
for signature in loaded.signatures:
    inputs = {name.split("/")[1]: tf.constant(value) for name, value in data.items() if name.startswith(signature + "/")}
    outputs = loaded.signatures[signature](**inputs)
    # tolist makes byte strings of TensorFlow's objects, which need no pickle.
    results |= {f"{signature}/{name}": np.array(value.numpy().tolist()) for name, value in outputs.items()}
np.savez(sys.argv[3], **results)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A tiny rescaling model and the directory it was exported to."""
    model, root = tiny_model("rescaling", scale=4), tmp_path_factory.mktemp("served")
    save_model(model, root / "model")
    assert export("saved_model", "--model", root / "model", "--output", root / "tiny", "--max-pixels", MAX_PIXELS) == 0
    return model, root / "tiny"


@pytest.fixture(scope="module")
def runtime(served):
    """The export, loaded once."""
    return open_runtime(served[1])


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def assert_same_bytes(served: np.ndarray, floats: np.ndarray) -> None:
    """Equal to the rounded floats, but where those lie on the edge of two bytes within the float tolerance, 1e-5."""
    levels = np.clip(np.asarray(floats, np.float64), 0, 1) * 255
    off = served != quantize(np.asarray(floats))
    edge = np.abs(levels - np.floor(levels) - 0.5) <= 255 * 1e-5 * max(1.0, np.abs(floats).max())
    assert served.shape == levels.shape
    assert not (off & ~edge).any()
    assert (np.abs(served - levels) <= 0.51).all()


def requests_to(model) -> dict[str, dict[str, np.ndarray]]:
    """One request to each signature: two LR images of 6 x 5, HR images of 24 x 20."""
    rng = np.random.default_rng(0)
    lr, hr = rng.integers(0, 256, (2, 6, 5, 3), np.uint8), rng.integers(0, 256, (2, 24, 20, 3), np.uint8)
    temperatures, seeds = np.array([0.4, 0.9], np.float32), np.array([3, 8])
    float_lr, float_hr = lr / np.float32(255), hr / np.float32(255)
    latents = [z.numpy() for z in model.draw_latents(lr.shape, 0.8, seed=2)]
    named = {f"latents_{level}": z for level, z in enumerate(latents, start=1)}
    return {
        "serving_default": {"image": lr},
        "upscale": {"image": lr},
        "sample": {"image": lr, "temperature": temperatures, "seed": seeds},
        "upscale_bytes": {"image_bytes": np.array([png(lr[0]), png(lr[1][:4])])},
        "downscale": {"image": hr[:, :22]},
        "downscale_bytes": {"image_bytes": np.array([png(hr[0])])},
        "encode": {"hr": float_hr},
        "decode": {"lr": float_lr, **named},
        "log_prob": {"hr": float_hr, "lr": float_lr},
    }


def test_every_signature_in_a_process_without_hcflow_tf(served, tmp_path):
    model, directory = served
    inputs = requests_to(model)
    temperatures, seeds = inputs["sample"]["temperature"], inputs["sample"]["seed"]
    float_lr, *latents = inputs["decode"].values()
    float_hr = inputs["encode"]["hr"]
    np.savez(tmp_path / "in.npz", **{f"{s}/{name}": value for s, values in inputs.items() for name, value in values.items()})
    command = [sys.executable, "-c", CLEAN_PROCESS, directory / "1", tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    out = dict(np.load(tmp_path / "out.npz"))

    def decode(images, parts):
        return model.flow.inverse_and_log_det([images, *parts])[0].numpy()

    zeros = [np.zeros_like(z) for z in latents]
    upscaled = decode(float_lr, zeros)
    assert_same_bytes(out["serving_default/image"], upscaled)
    assert_same_bytes(out["upscale/image"], upscaled)
    for index in range(2):
        # Each image of the batch is what the model makes of it alone.
        drawn = model.draw_latents([1, 6, 5, 3], temperatures[index], int(seeds[index]))
        assert_same_bytes(out["sample/image"][index], decode(float_lr[index : index + 1], drawn)[0])
    assert_same_bytes(pixels(out["upscale_bytes/image_bytes"][0]), upscaled[0])
    assert pixels(out["upscale_bytes/image_bytes"][1]).shape == (16, 20, 3)
    padded = np.pad(float_hr[:, :22], ((0, 0), (0, 2), (0, 0), (0, 0)), "symmetric")
    assert_same_bytes(out["downscale/image"], model.flow.forward_and_log_det(padded)[0][0])
    parts, log_det = model.flow.forward_and_log_det(float_hr)
    assert_same_bytes(pixels(out["downscale_bytes/image_bytes"][0]), parts[0][0])
    from hcflow_tf.models.flow_model import LR_LOG_STD, gaussian_log_prob, latent_log_prob

    log_prob = gaussian_log_prob(parts[0], float_lr, LR_LOG_STD) + latent_log_prob(parts[1:]) + log_det
    floats = {"decode/hr": decode(float_lr, latents), "log_prob/log_prob": log_prob}
    floats |= dict(zip(("encode/lr", "encode/latents_1", "encode/latents_2"), parts, strict=True))
    for name, expected in floats.items():
        assert np.abs(out[name] - expected).max() <= 1e-5 * np.abs(expected).max(), name


@pytest.fixture(scope="module")
def native_client(tmp_path_factory):
    """The C program over TensorFlow's library, built."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent / "native"))
    import build

    if build.compiler() is None:
        pytest.skip("no C compiler (cc, or name one by CC)")
    output = tmp_path_factory.mktemp("native") / "saved_model_client"
    build.build("saved_model_client", output)
    return output


def test_every_signature_from_c(served, runtime, native_client, tmp_path):
    """TensorFlow's C++ runtime, without Python, loads the export by its tag and gives what Python gives."""
    from tensor_file import read_results, write_requests

    model, directory = served
    requests = requests_to(model)
    write_requests(tmp_path / "requests", requests)
    subprocess.run([native_client, directory / "1", tmp_path / "requests", tmp_path / "results"], check=True, timeout=300)
    results = read_results(tmp_path / "results")
    assert sorted(results) == sorted(runtime._signatures)
    for signature, outputs in results.items():
        expected = runtime.call(signature, **requests[signature])
        assert sorted(outputs) == sorted(expected)
        for name, value in outputs.items():
            if value.dtype.kind == "f":
                error = np.abs(value - expected[name]).max()
                assert error <= 1e-6 * np.abs(expected[name]).max(), f"{signature}/{name}: {error}"
            else:
                np.testing.assert_array_equal(value, expected[name], f"{signature}/{name}")


def test_errors_from_c(served, native_client, tmp_path):
    """What the model refuses reaches a C caller as text; so do a missing input, signature and directory."""
    from tensor_file import write_requests

    _, directory = served
    for path, requests, message in (
        ("1", {"upscale_bytes": {"image_bytes": np.array([b"not an image"])}}, "not a PNG or JPEG file"),
        ("1", {"upscale": {"image": np.zeros((1, 33, 32, 3), np.uint8)}}, "must have 1 to 1024 pixels"),
        ("1", {"upscale": {"lr": np.zeros((1, 4, 4, 3), np.uint8)}}, "the input image is missing"),
        ("1", {"enlarge": {}}, "the model has no signature enlarge"),
        ("7", {"upscale": {}}, "Could not find SavedModel"),
    ):
        write_requests(tmp_path / "requests", requests)
        command = [native_client, directory / path, tmp_path / "requests", tmp_path / "results"]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 1
        assert message in finished.stderr


def test_warmup_requests_replay(served, runtime):
    """Every record parses, names a signature once, and runs."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    _, directory = served
    names = []
    for record in tf.data.TFRecordDataset(str(directory / "1/assets.extra/tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "tiny"
        names.append(request.model_spec.signature_name)
        runtime.call(names[-1], **{key: tf.make_ndarray(value) for key, value in request.inputs.items()})
    assert sorted(names) == sorted(runtime._signatures)


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (2, 1, 1, 3), (2, 4, 5, 3)])
def test_log_prob_refuses_an_lr_of_another_shape(served, shape):
    hr = np.zeros((2, 16, 16, 3), np.float32)
    with pytest.raises(HCFlowError, match="expected an lr for each hr, 4 times smaller"):
        open_runtime(served[1]).log_prob(hr, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("temperature", "seed", "message"),
    [
        ([np.nan, 0.5], [1, 2], "finite temperatures of at least 0"),
        ([0.5, -0.1], [1, 2], "finite temperatures of at least 0"),
        ([np.inf], [1, 2], "finite temperatures of at least 0"),
        ([0.5, 0.5, 0.5], [1, 2], "one temperature, or one for each image"),
        ([0.5, 0.5], [1], "one temperature, or one for each image"),
    ],
)
def test_draws_that_cannot_be_are_refused(served, temperature, seed, message):
    runtime = open_runtime(served[1])
    inputs = {"image": np.zeros((2, 6, 5, 3), np.uint8), "seed": np.array(seed)}
    with pytest.raises(HCFlowError, match=message):
        runtime.call("sample", temperature=np.array(temperature, np.float32), **inputs)
    one_for_all = runtime.call("sample", temperature=np.array([0.5], np.float32), **inputs | {"seed": np.array([1, 2])})
    assert one_for_all["image"].shape == (2, 24, 20, 3)


def test_refuses_what_is_too_large_or_no_image(runtime):
    with pytest.raises(HCFlowError, match="must have 1 to 1024 pixels"):
        runtime.call("upscale", image=np.zeros((1, 33, 32, 3), np.uint8))
    with pytest.raises(HCFlowError, match="must have 1 to 16384 pixels"):
        runtime.call("downscale_bytes", image_bytes=np.array([png(np.zeros((128, 129, 3), np.uint8), "JPEG")]))
    huge = bytearray(png(np.zeros((8, 8, 3), np.uint8)))
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(HCFlowError, match="must have 1 to 1024 pixels"):
        runtime.call("upscale_bytes", image_bytes=np.array([bytes(huge)]))
    for data in (b"not an image", b"", png(np.zeros((8, 8, 3), np.uint8))[:60], png(np.zeros((8, 8, 3), np.uint8), "BMP")):
        with pytest.raises(HCFlowError, match="refuses the input"):
            runtime.call("upscale_bytes", image_bytes=np.array([data], object))
    assert runtime.call("upscale", image=np.zeros((1, 8, 8, 3), np.uint8))["image"].shape == (1, 32, 32, 3)


def test_files_of_the_server(served):
    import yaml

    _, directory = served
    assert sorted(entry.name for entry in directory.iterdir()) == ["1", "batching_parameters.txt", "compose.yaml"]
    service = yaml.safe_load((directory / "compose.yaml").read_text())["services"]["tiny"]
    assert service["environment"] == {"MODEL_NAME": "tiny"}
    assert "--batching_parameters_file=/models/tiny/batching_parameters.txt" in service["command"]


def test_next_version_and_failure(served, tmp_path, monkeypatch, capsys):
    from hcflow_tf.runtimes import export_frame

    _, directory = served
    arguments = ("--model", directory.parent / "model", "--output")
    assert export("saved_model", *arguments, directory, "--version", 1) == 2
    assert "--version 1: is there already; leave --version out for the next one, or give --overwrite" in capsys.readouterr().err
    save_model(tiny_model("super_resolution", scale=2), tmp_path / "model")
    arguments = ("--model", tmp_path / "model", "--output")
    monkeypatch.setattr(
        export_frame, "check_runtime", lambda *_: export_frame.check_equal("decode", np.ones(1), np.full(1, 2.0), 0.1)
    )
    assert export("saved_model", *arguments, tmp_path / "none") == 1
    assert "failed its check" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    (tmp_path / "there/1").mkdir(parents=True)
    (tmp_path / "there/1/saved_model.pb").write_bytes(b"old")
    assert export("saved_model", *arguments, tmp_path / "there", "--version", 1, "--overwrite") == 1
    assert (tmp_path / "there/1/saved_model.pb").read_bytes() == b"old"


def test_a_version_is_replaced_on_demand(tmp_path):
    save_model(tiny_model("super_resolution", scale=2), tmp_path / "model")
    (tmp_path / "out/1").mkdir(parents=True)
    (tmp_path / "out/1/old.txt").write_bytes(b"old")
    arguments = ("--model", tmp_path / "model", "--output", tmp_path / "out", "--version", 1, "--overwrite")
    assert export("saved_model", *arguments) == 0
    assert open_runtime(tmp_path / "out").scale == 2
    assert not (tmp_path / "out/1/old.txt").exists()
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["1", "batching_parameters.txt", "compose.yaml"]


def test_a_model_exported_into_itself_stays_a_model(tmp_path):
    save_model(tiny_model("super_resolution", scale=2), tmp_path)
    assert export("saved_model", "--model", tmp_path, "--output", tmp_path) == 0
    assert type(open_runtime(tmp_path)).__name__ == "KerasRuntime"
    assert type(open_runtime(tmp_path / "1")).__name__ == "SavedModelRuntime"


@pytest.fixture(scope="module")
def server(served):
    """A running tensorflow_model_server: (gRPC port, REST port)."""
    program = os.environ.get("HCFLOW_MODEL_SERVER") or shutil.which("tensorflow_model_server")
    if not program:
        pytest.skip("no tensorflow_model_server is installed (name one by HCFLOW_MODEL_SERVER)")
    _, directory = served
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            ports.append(probe.getsockname()[1])
    command = [
        program,
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        "--model_name=tiny",
        f"--model_base_path={directory}",
    ]
    command += ["--enable_batching=true", f"--batching_parameters_file={directory / 'batching_parameters.txt'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://localhost:{ports[1]}/v1/models/tiny", timeout=5) as response:
                    if json.load(response)["model_version_status"][0]["state"] == "AVAILABLE":
                        break
            except OSError:
                pass
            assert process.poll() is None and time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.5)
        yield ports
    finally:
        process.terminate()
        process.wait()


def test_real_server(runtime, server):
    """REST, gRPC, batches of concurrent requests, and refusals after which it still serves."""
    sys.path.insert(0, str(pathlib.Path(EXPORT) / "clients"))
    import grpc_client
    import rest_client

    url, address = f"http://localhost:{server[1]}", f"localhost:{server[0]}"
    image = photograph(7, 6)
    expected = runtime.call("upscale", image=image[None])["image"]
    np.testing.assert_array_equal(pixels(rest_client.call(url, "tiny", png(image))), expected[0])
    for data in (b"not an image", png(photograph(64, 64))):
        with pytest.raises(RuntimeError, match="400"):
            rest_client.call(url, "tiny", data)

    def sample(seed: int) -> np.ndarray:
        inputs = {"image": image[None], "temperature": np.array([0.8], np.float32), "seed": np.array([seed], np.int64)}
        return grpc_client.call(address, "tiny", "sample", inputs)["image"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        served_samples = list(pool.map(sample, [0, 1, 2, 3, 0, 1, 2, 3]))
    for seed in range(4):
        inputs = {"image": image[None], "temperature": np.array([0.8], np.float32), "seed": np.array([seed])}
        alone = runtime.call("sample", **inputs)["image"]
        np.testing.assert_array_equal(served_samples[seed], alone)
        np.testing.assert_array_equal(served_samples[seed + 4], alone)
