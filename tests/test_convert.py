"""`hcflow convert`: released weight files to model directories, and everything that can be wrong with one."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
import zipfile

import numpy as np
import pth
import pytest

from hcflow_tf import convert
from hcflow_tf.config import IRNConfig, ModelConfig, SRFlowConfig, SystemConfig
from hcflow_tf.models.systems import make_model
from hcflow_tf.support import cli, download
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights import released as weights
from hcflow_tf.weights.store import load_model

SMALL = {"main_width": 5, "conditional_width": 6, "rrdb_blocks": (2, 1), "rrdb_features": 4, "rrdb_growth": 3}
CONFIGS: dict[str, SystemConfig] = {
    "super_resolution": ModelConfig(scale=2, main_steps=3, conditional_steps=2, log_std_bound=None, **SMALL),
    "rescaling": ModelConfig(task="rescaling", scale=4, main_steps=2, conditional_steps=1, **SMALL),
    "irn": IRNConfig(scale=4, blocks=(2, 1), growth=5),
    "srflow": SRFlowConfig(
        scale=2, plain_steps=1, steps=2, width=5, rrdb_blocks=2, rrdb_features=4, rrdb_growth=3, stacked_blocks=(1, 1, 1, 1)
    ),
}
UNUSED = {
    "rescaling": ["flow.layers.0.haar_weights"],
    "irn": ["operations.0.haar_weights", "operations.3.haar_weights"],
    "srflow": ["flowUpsamplerNet.f.0.weight"],
}
"""Entries of fixed kernels in their files, and of what nothing uses."""
SIZES = {
    "super_resolution": ("super_resolution x2", "L 1, K 3, P 2"),
    "rescaling": ("rescaling x4", "L 2, K 2, P 1"),
    "irn": ("rescaling x4", "2, 1 (finest level first)"),
    "srflow": ("super_resolution x2", "L 2, K 2 and 1 without coupling"),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="what torch.save writes; the reader needs no torch: test_state_dict.py")


@functools.cache
def released_state(task: str) -> dict[str, np.ndarray]:
    """Random weights of a small model under the authors' names, as their program would save them."""
    config, rng = CONFIGS[task], np.random.default_rng(0)
    shapes = {name: variable.shape for name, variable in make_model(config).named_weights().items()}
    state = weights.to_released({name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}, config)
    return state | {name: np.ones((12, 1, 2, 2), np.float32) for name in UNUSED.get(task, ())}


def run(capsys, *argv) -> tuple[int, str, str]:
    code = cli.execute("convert", [str(argument) for argument in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("task", CONFIGS)
def test_file_becomes_a_model_directory(task, tmp_path, capsys):
    state, config = released_state(task), CONFIGS[task]
    path = pth.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.pth")
    code, out, _ = run(capsys, path, "-o", tmp_path / "model")
    assert code == 0
    model = load_model(tmp_path / "model")
    assert model.config == config
    table = {line[:16].strip(): line[17:] for line in out.splitlines()}
    assert table["system"] == config.system
    assert (table["task"], table.get("steps") or table["blocks"]) == SIZES[task]
    assert table["parameters"].startswith(f"{model.count_params():,}")
    for name, variable in model.named_weights().items():
        theirs = state[weights.names(config)[name].name]
        ours = np.asarray(variable)
        np.testing.assert_array_equal(ours, theirs.transpose(2, 3, 1, 0) if ours.ndim == 4 else theirs.reshape(ours.shape))


@pytest.mark.parametrize("name", ["rescale_x4_tiny", "irn_x4_tiny", "irn_x2_tiny", "rrdb_x4_tiny"])
def test_authors_file_end_to_end(name, shared, tmp_path, capsys):
    folder = shared / "fixtures/parity"
    assert run(capsys, folder / f"{name}.pth", "-o", tmp_path / "model")[0] == 0
    reference = {key: value.transpose(0, 2, 3, 1) for key, value in np.load(folder / f"{name}.npz").items() if value.ndim == 4}
    model = load_model(tmp_path / "model")
    if model.can_encode:
        ours, expected = model.encode(reference["hr"])[0], reference["encode_lr"]
    else:
        ours, expected = model.decode(reference["lr"]), reference["decode"]
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("option", ["--overwrite", "--force"])
def test_existing_model_is_replaced_only_on_demand(option, tmp_path, capsys):
    path, output = pth.save(released_state("rescaling"), tmp_path / "w.pth"), tmp_path / "model"
    output.mkdir()
    (output / "weights.npz").write_bytes(b"precious")
    code, _, err = run(capsys, path, "-o", output)
    assert code == 2
    assert err == (f"hcflow convert: {output}/weights.npz exists already; choose another -o, or replace it with --overwrite\n")
    broken = pth.save({"a": np.zeros(3, np.float32)}, tmp_path / "broken.pth")
    assert run(capsys, broken, "-o", output, option)[0] == 1
    assert (output / "weights.npz").read_bytes() == b"precious"
    assert run(capsys, path, "-o", output, option)[0] == 0
    assert load_model(output).config == CONFIGS["rescaling"]
    assert sorted(entry.name for entry in output.iterdir()) == ["config.yaml", "weights.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("flow.layers.2.actnorm.bias"), "1 missing: flow.layers.2.actnorm.bias"),
        (lambda state: state.update(extra=np.zeros(1, np.float32)), "1 unexpected: extra"),
        (
            lambda state: state.update({"flow.level0_condFlow.f.bias": np.zeros(7, np.float32)}),
            "1 misshapen: flow.level0_condFlow.f.bias is (7,), expected (18,)",
        ),
        (lambda state: state["flow.level0_condFlow.f.bias"].fill(np.nan), "1 entries are not finite"),
    ],
    ids=["missing", "unexpected", "misshapen", "not finite"],
)
def test_wrong_entries_are_listed_and_nothing_is_written(change, message, tmp_path, capsys):
    state = {name: value.copy() for name, value in released_state("super_resolution").items()}
    change(state)
    code, _, err = run(capsys, pth.save(state, tmp_path / "w.pth"), "-o", tmp_path / "model")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_a_missing_step_does_not_change_what_is_inferred():
    shapes = {name: value.shape for name, value in released_state("rescaling").items() if "layers.2." not in name}
    assert weights.infer_config(shapes) == CONFIGS["rescaling"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"conv.weight": (3, 3)}, "not the weights of a known system: expected entries named flow.layers.*"),
        ({}, "not the weights of a known system"),
        ({"flow.weight": (3, 3)}, "not the weights of an HCFlow model: expected entries named flow.layers.*"),
        ({"operations.1.F.conv1.weight": (3, 3)}, "not the weights of an IRN model: there is no convolution operations.1.F"),
        (
            {"operations.0.haar_weights": (), "operations.1.F.conv1.weight": (8, 9, 3, 3), "operations.2.haar_weights": ()},
            "not the weights of an IRN model: blocks.1 would be 0",
        ),
        (
            {name: value.shape for name, value in released_state("rescaling").items() if "conv_first.weight" not in name},
            "there is no convolution flow.level0_condFlow.conv_first.weight",
        ),
        (
            {name: value.shape for name, value in released_state("rescaling").items()}
            | {f"flow.level{level}_condFlow.f.bias": (1,) for level in range(7)},
            "7 levels, scale 128; known scales: 2, 4, 8, 16",
        ),
        (
            {name: value.shape for name, value in released_state("rescaling").items()}
            | {"flow.level0_condFlow.conv_first.weight": ()},
            "there is no convolution flow.level0_condFlow.conv_first.weight",
        ),
    ],
    ids=["another network", "nothing", "no steps", "no levels", "no blocks", "no width", "too many levels", "scalar"],
)
def test_what_is_no_model(shapes, message):
    with pytest.raises(HCFlowError, match=message.replace("*", r"\*")):
        weights.infer_config(shapes)


def test_files_that_are_no_state_dicts(tmp_path, capsys):
    whole = pth.save({"a": np.zeros(1000, np.float32)}, tmp_path / "truncated.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[:-500])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "numbers.pth").write_bytes(pth.archive(pth.mapping({"a": pth.value(1)}), {}))
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": threading.Thread}))
    for name in ("truncated.pth", "text.pth", "numbers.pth", "code.pth", "absent.pth"):
        code, _, err = run(capsys, tmp_path / name, "-o", tmp_path / "model")
        assert (code, err.count("\n")) == (1, 1), name
        assert name in err
        assert not (tmp_path / "model").exists()


ONE, THREE = np.zeros(1, np.float32), np.zeros(3, np.float32)
SPARSE = pth.call("torch._utils", "_rebuild_sparse_tensor")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda state: pth.state_dict(state, {"a": pth.tensor("0", ONE, shape=(2**31,), strides=(0,))}), "larger than the file"),
        (lambda state: pth.state_dict(state, {"a": SPARSE}), "it names torch._utils._rebuild_sparse_tensor"),
        (lambda state: pth.state_dict({**state, "a": THREE.astype(np.complex64)}), "tensor of ComplexFloat, not of real numbers"),
        (lambda state: pth.state_dict(state, {7: pth.tensor("0", THREE)}), "a name is no text, but of type int"),
        (lambda state: pth.state_dict({}, {"a": pth.value({"b": 1})}), "expected a mapping from names to tensors"),
        (lambda state: pth.state_dict({f"flow.level{level}_condFlow.f.bias": ONE for level in range(9)}), "not the weights of"),
        (
            lambda state: pth.state_dict(
                state | {key: np.zeros((20_000, 1, 1, 1), np.float32) for key in state if "conv1.weight" in key}
            ),
            "not the weights of an HCFlow model: main_width would be 20000",
        ),
        (
            lambda state: pth.state_dict(state | {f"flow.layers.{step}.actnorm.bias": ONE for step in range(5000)}),
            "not the weights of an HCFlow model: main_steps would be 5000",
        ),
        (lambda state: pth.state_dict(state | {"module.flow.layers.1.actnorm.bias": THREE}), "holds a name twice"),
    ],
)
def test_state_dicts_that_lie(lie, reason, tmp_path, capsys):
    (tmp_path / "w.pth").write_bytes(lie(released_state("super_resolution")))
    code, _, err = run(capsys, tmp_path / "w.pth", "-o", tmp_path / "model")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"hcflow convert: {tmp_path / 'w.pth'}")
    assert reason in err
    assert not (tmp_path / "model").exists()


def test_code_in_a_file_is_not_run(torch, tmp_path, capsys, monkeypatch):
    from fuzz.harness import MARKER
    from fuzz.pickles import lying_pth

    monkeypatch.chdir(tmp_path)
    files = lying_pth(released_state("super_resolution"), seed=0, mutated=0)
    programs = [name for name in files if name.startswith(("program", "call", "global", "whole_module", "torchscript"))]
    assert len(programs) == 9
    for name in programs:
        (tmp_path / name).write_bytes(files[name])
        code, _, err = run(capsys, name, "-o", "model")
        assert (code, err.count("\n")) == (1, 1), name
        assert not (tmp_path / MARKER).exists(), name
    pickle.loads(files["program.pth"])  # the file is what it seems: trusted, it runs
    assert (tmp_path / MARKER).exists()


def test_a_compressed_file_may_be_a_bomb(tmp_path, capsys):
    path = pth.save({"a": np.zeros(1000, np.float32)}, tmp_path / "w.pth")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    code, _, err = run(capsys, tmp_path / "bomb.pth", "-o", tmp_path / "model")
    assert (code, "its entries are compressed, as torch.save never does it" in err) == (1, True)


@pytest.mark.parametrize("arguments", [[], ["w.pth", "--released", convert.RELEASED[0]]])
def test_wrong_usage(arguments, tmp_path, capsys):
    assert run(capsys, *arguments, "-o", tmp_path / "model")[0] == 2


def test_released_file_is_fetched_once_and_checked(tmp_path, capsys, monkeypatch):
    name = "SR_CelebA_X8_HCFlow++"
    path = pth.save(released_state("super_resolution"), tmp_path / f"{name}.pth")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(download.MIRROR, f"http://127.0.0.1:{server.server_address[1]}")
        assert run(capsys, "--released", name, "-o", tmp_path / "model")[0] == 0
        assert run(capsys, "--released", name, "-o", tmp_path / "again")[0] == 0
        code, _, err = run(capsys, "--released", convert.RELEASED[0], "-o", tmp_path / "other")
        server.shutdown()
    assert requests[0] == f"/{name}.pth"
    assert len([request for request in requests if "++" in request]) == 1
    assert code == 1
    assert "HTTP 404" in err
    assert load_model(tmp_path / "again").config == CONFIGS["super_resolution"]
    code, _, err = run(capsys, path, "-o", tmp_path / "other", "--sha256", "0" * 64)
    assert code == 1
    assert "expected 0000" in err


def test_every_released_name_has_its_address():
    names = convert.RELEASED
    assert len(names) == len(set(names)) == 7
    assert convert.RELEASED_URL + names[1] + ".pth" == (
        "https://github.com/JingyunLiang/HCFlow/releases/download/v0.0/SR_DF2K_X4_HCFlow+.pth"
    )
