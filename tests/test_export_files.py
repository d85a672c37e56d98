"""TFLite and ONNX files: equal to the model, of portable operators, refused when they fail their check."""

from __future__ import annotations

import numpy as np
import pytest
from exports import export
from tiny import photograph, tiny_model

from hcflow_tf.inference.scaling import Scaler
from hcflow_tf.runtimes import export_frame
from hcflow_tf.runtimes.onnx import OnnxRuntime
from hcflow_tf.runtimes.open import open_runtime
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import encoder_path
from hcflow_tf.weights.store import save_model

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def super_resolution(tmp_path_factory):
    """A tiny model, x2, and its directory."""
    return _save(tiny_model("super_resolution", scale=2), tmp_path_factory.mktemp("super_resolution"))


@pytest.fixture(scope="module")
def rescaling(tmp_path_factory):
    """A tiny model, x2, whose convolutions see its border again, and its directory."""
    return _save(tiny_model("rescaling", scale=2, padding="replicate"), tmp_path_factory.mktemp("rescaling"))


def _save(model, directory):
    save_model(model, directory)
    return model, directory


def largest_error(ours, expected) -> float:
    return float(np.abs(ours - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())


def assert_runs_like(runtime, model, height: int, width: int, batch: int = 2) -> None:
    lr = np.random.default_rng(0).random((batch, height, width, 3), np.float32)
    latents = [latent.numpy() for latent in model.draw_latents(lr.shape, 0.7, seed=5)]
    hr = model.flow.inverse_and_log_det([lr, *latents])[0]
    assert largest_error(runtime.decode(lr, latents), hr) <= TOLERANCE
    assert (runtime.makes_lr, runtime.scale, runtime.latents) == (
        model.config.makes_lr,
        model.scale,
        model.latents,
    )
    assert runtime.can_encode == (model.config.task == "rescaling")
    if runtime.can_encode:
        parts = model.flow.forward_and_log_det(hr)[0]
        encoded, encoded_latents = runtime.encode(hr.numpy())
        for ours, expected in zip((encoded, *encoded_latents), parts, strict=True):
            assert largest_error(ours, expected) <= TOLERANCE


def test_tflite_dynamic(rescaling, tmp_path):
    """Decoder and encoder, any batch and size; the int8 file is smaller and close."""
    model, directory = rescaling
    path, small = tmp_path / "m.tflite", tmp_path / "int8.tflite"
    assert export("tflite", "--model", directory, "--output", path, "--dynamic") == 0
    runtime = open_runtime(path)
    assert runtime.fixed_lr_size is None
    for height, width in ((5, 7), (9, 4)):
        assert_runs_like(runtime, model, height, width)
    assert export("tflite", "--model", directory, "--output", small, "--dynamic", "--precision", "int8") == 0
    assert small.stat().st_size < path.stat().st_size
    assert_loses_little(model, open_runtime(small), allowed=0.1)


def assert_loses_little(model, runtime, allowed: float) -> None:
    """Y-PSNR at temperature 0 on a smooth image, dB; and the file is not just the float32 one."""
    from hcflow_tf.runtimes import export_frame as frame

    hr = photograph(16 * model.scale, 16 * model.scale)[None].astype(np.float32) / 255
    lr = model.flow.forward_and_log_det(hr)[0][0].numpy()
    zeros = [np.zeros(z.shape, np.float32) for z in model.draw_latents(lr.shape, 0.0, seed=0)]
    expected = model.flow.inverse_and_log_det([lr, *zeros])[0].numpy()
    decoded = runtime.decode(lr, zeros if runtime.latent_channels else ())
    assert largest_error(decoded, expected) > 1e-6
    assert frame.y_psnr(expected, hr) - frame.y_psnr(decoded, hr) <= allowed


def test_tflite_fixed(super_resolution, tmp_path):
    """The GPU delegate's form (the export asks TensorFlow's analyzer): built-in operators, rank 4, named, tiled."""
    from ai_edge_litert.interpreter import Interpreter

    model, directory = super_resolution
    path = tmp_path / "m.tflite"
    assert export("tflite", "--model", directory, "--output", path, "--lr-size", "18x16") == 0
    runtime = open_runtime(path)
    assert runtime.fixed_lr_size == (18, 16)
    assert_runs_like(runtime, model, 18, 16)
    lr = photograph(20, 33).astype(np.float32) / 255
    assert Scaler(runtime).upscale(lr, 0.7, seed=1).shape == (40, 66, 3)
    interpreter = Interpreter(model_path=str(path))
    assert interpreter.get_signature_list() == {"decode": {"inputs": ["latents_1", "lr"], "outputs": ["hr"]}}
    names = {operation["op_name"] for operation in interpreter._get_ops_details()}
    assert not {name for name in names if name.startswith("Flex") or name in ("CUSTOM", "ATAN2", "TRANSPOSE", "RESHAPE")}
    assert all(len(tensor["shape"]) <= 4 for tensor in interpreter.get_tensor_details())


def test_tflite_float16_at_temperature_0(super_resolution, tmp_path):
    model, directory = super_resolution
    path = tmp_path / "m.tflite"
    arguments = ("--dynamic", "--temperature", "0", "--precision", "float16")
    assert export("tflite", "--model", directory, "--output", path, *arguments) == 0
    runtime = open_runtime(path)
    assert (runtime.latent_channels, runtime.scale) == ((), 2)
    assert_loses_little(model, runtime, allowed=0.02)


@pytest.mark.parametrize(("name", "layout", "opset"), [("super_resolution", "nhwc", 18), ("rescaling", "nchw", 13)])
def test_onnx(request, tmp_path, name, layout, opset):
    import onnx

    model, directory = request.getfixturevalue(name)
    path = tmp_path / "m.onnx"
    assert export("onnx", "--model", directory, "--output", path, "--layout", layout, "--opset", opset) == 0
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    onnx.shape_inference.infer_shapes(file, strict_mode=True)
    assert {entry.domain: entry.version for entry in file.opset_import}[""] == opset
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert (metadata["task"], metadata["scale"], metadata["layout"]) == (model.config.task, str(model.scale), layout)
    lr = next(value for value in file.graph.input if value.name == "lr")
    shape = [dimension.dim_param or dimension.dim_value for dimension in lr.type.tensor_type.shape.dim]
    assert shape == (["batch", "height", "width", 3] if layout == "nhwc" else ["batch", 3, "height", "width"])
    assert {node.op_type for node in file.graph.node}.isdisjoint({"Resize", "Upsample", "Reshape", "Loop", "If"})
    if name == "rescaling":
        modes = [attribute.s for node in file.graph.node if node.op_type == "Pad" for attribute in node.attribute]
        kernels = {initializer.name: initializer.dims[2:] for initializer in file.graph.initializer if len(initializer.dims) == 4}
        convolutions = [node for node in file.graph.node if node.op_type == "Conv" and kernels[node.input[1]] == [3, 3]]
        assert set(modes) == {b"edge"}
        assert len(modes) <= len(convolutions)  # fewer: some see the same input
        encoder = onnx.load(encoder_path(path))
        assert [value.name for value in encoder.graph.output] == ["lr", "latents_1"]
    runtime = open_runtime(path)
    for height, width in ((5, 7), (9, 4)):
        assert_runs_like(runtime, model, height, width)


def test_onnx_float16(rescaling, tmp_path):
    """Half the bytes; close, but not just the float32 file; inputs and outputs as ever."""
    model, directory = rescaling
    path, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    assert export("onnx", "--model", directory, "--output", path) == 0
    assert export("onnx", "--model", directory, "--output", small, "--precision", "float16") == 0
    assert small.stat().st_size < path.stat().st_size
    runtime = open_runtime(small)
    assert runtime.can_encode
    assert_loses_little(model, runtime, allowed=0.02)


def test_failed_check_leaves_no_file(super_resolution, tmp_path, monkeypatch, capsys):
    from hcflow_tf.runtimes import tensor_functions

    _, directory = super_resolution
    decoder = tensor_functions.decoder

    def wrong(folded, size, *, latents):
        decode = folded.decode
        monkeypatch.setattr(folded, "decode", lambda lr, z, guard: decode(lr, z, guard=guard) * 1.01)
        return decoder(folded, size, latents=latents)

    monkeypatch.setattr(tensor_functions, "decoder", wrong)
    assert export("tflite", "--model", directory, "--output", tmp_path / "m.tflite") == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("export_tflite.py: the export failed its check and was not written: decode of a random image")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
@pytest.mark.parametrize("name", ["m", "m_encoder"])
def test_existing_files_stay_unless_told(rescaling, tmp_path, kind, name, capsys, monkeypatch):
    monkeypatch.setattr(export_frame, "load", lambda args: pytest.fail("told before the model is loaded"))
    path = tmp_path / f"{name}.{kind}"
    path.write_bytes(b"precious")
    assert export(kind, "--model", rescaling[1], "--output", tmp_path / f"m.{kind}") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"export_{kind}.py: {path} exists already; choose another --output, or replace it with --overwrite"
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_another_models_encoder_is_not_taken_for_this_ones(super_resolution, tmp_path, kind, capsys):
    path = tmp_path / f"m_encoder.{kind}"
    path.write_bytes(b"precious")
    assert export(kind, "--model", super_resolution[1], "--output", tmp_path / f"m.{kind}", "--overwrite") == 2
    assert f"{path} would be taken for its encoder" in capsys.readouterr().err
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_overwrite_replaces_but_never_the_model(super_resolution, tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    assert export("onnx", "--model", super_resolution[1], "--output", path, "--overwrite") == 0
    assert open_runtime(path).scale == 2
    path.unlink()
    path.hardlink_to(super_resolution[1] / "weights.npz")
    assert export("onnx", "--model", super_resolution[1], "--output", path, "--overwrite") == 2
    assert f"{path} is an input and would be overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["triton", "saved_model"])
@pytest.mark.parametrize("name", ["a b", 'a"b', "a:b", "-a"])
def test_names_that_servers_cannot_hold(super_resolution, tmp_path, kind, name, capsys):
    assert export(kind, "--model", super_resolution[1], "--output", tmp_path / name) == 2
    assert "its name is the served model's, of letters, digits" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_an_encoder_is_no_decoder(rescaling, tmp_path):
    path = tmp_path / "a.onnx"
    assert export("onnx", "--model", rescaling[1], "--output", path) == 0
    with pytest.raises(
        HCFlowError, match=r"is not a decoder made by export/export_onnx.py: its inputs are others \(an encoder\?\)"
    ):
        OnnxRuntime(tmp_path / "a_encoder.onnx")


def test_one_line_errors(tmp_path, capsys):
    assert export("tflite", "--model", tmp_path / "none", "--output", tmp_path / "m.tflite") == 1
    assert export("onnx", "--model", tmp_path, "--output", tmp_path / "m.tflite") == 2
    assert capsys.readouterr().err.count("\nexport_onnx.py: ") == 1
    for name in ("broken.tflite", "broken.onnx"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(HCFlowError, match=f"{name} is not a readable"):
            open_runtime(tmp_path / name)
