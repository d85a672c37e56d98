"""Weight files and configs that lie about each other are refused before they cost memory, time or trust."""

from __future__ import annotations

import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import yaml
from fuzz.harness import MARKER
from fuzz.weights import Program, npy, npy_header, npz
from tiny import tiny_config, tiny_model

from hcflow_tf.models.hcflow import HCFlow
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.weights.store import assign_weights, load_model, read_model, read_weights, save_model, weight_shapes, write_arrays

HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}"


def test_arrays_round_trip(tmp_path):
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "steps": np.asarray(7),
        "on": np.asarray(True),
        "none": np.zeros(0),
    }
    write_arrays(tmp_path / "a.npz", arrays)
    found = read_weights(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_either_byte_order_and_memory_order(tmp_path):
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "a.npz").write_bytes(npz({"big.npy": npy(value.astype(">f4")), "columns.npy": npy(np.asfortranarray(value))}))
    for found in read_weights(tmp_path / "a.npz").values():
        np.testing.assert_array_equal(found, value)
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: npz({"a.npy": npy(np.array([Program()], object))}), "a is an array of object, not of numbers"),
        (lambda: npz({"a.npy": npy(np.array(["text"]))}), "a is an array of <U4, not of numbers"),
        (lambda: npz({"a.npy": npy(np.zeros(3, "<f4,<i4"))}), "not of numbers"),
        (lambda: npz({"a.npy": npy_header(HUGE % 2**40)}), "a says that it is (1099511627776,), which its"),
        (lambda: npz({"a.npy": npy_header(HUGE % 10**9, bytes(400))}), "which its 475 bytes are not"),
        (lambda: npz({"a.npy": npy_header("(" * 9000)}), "a has a header that cannot be read"),
        (lambda: npz({"a.npy": npy_header("-" * 9000 + "1")}), "a has a header that cannot be read"),
        (lambda: npz({"a.npy": npy(np.zeros(3))[:-1]}), "which its"),
        (lambda: npz({"a.npy": npy(np.zeros(3)) + b"\0"}), "which its"),
        (lambda: npz({"a.npy": b"\x93NUMPY\x09\x09"}), "a has a header that cannot be read"),
        (lambda: npz({"a.npy": bytes(200_000_000)}, zipfile.ZIP_DEFLATED), "a is compressed; write it with numpy.savez"),
        (lambda: npz([("a.npy", npy(np.zeros(3))), ("a.npy", npy(np.ones(3)))]), "a is there twice"),
        (lambda: npz([("a.npy", npy(np.zeros(3))), ("a", npy(np.ones(3)))]), "a is there twice"),
        (lambda: b"not an archive", "File is not a zip file"),
        (lambda: b"", "File is not a zip file"),
    ],
)
def test_lies_are_told_before_they_cost_memory(content, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").write_bytes(content())
    tracemalloc.start()
    try:
        with pytest.raises(HCFlowError) as caught:
            read_weights(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"cannot read weights {tmp_path / 'a.npz'}: ")
    assert reason in str(caught.value)
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.pop("level_1/gaussian/bias"), "1 missing: level_1/gaussian/bias"),
        (lambda weights: weights.update(extra=np.zeros(1)), "1 unexpected: extra"),
        (
            lambda weights: weights.update({"level_1/gaussian/bias": np.zeros(3)}),
            r"level_1/gaussian/bias is (3,), expected (18,)",
        ),
        (
            lambda weights: weights["level_1/gaussian/bias"].fill(np.inf),
            "1 weights hold values that are not finite numbers, such as level_1/gaussian/bias",
        ),
        (
            lambda weights: weights.update({"level_1/gaussian/bias": np.full(18, 1e300)}),
            "1 weights hold values that are not finite numbers, such as level_1/gaussian/bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(change, reason, tmp_path):
    model = HCFlow(tiny_config("super_resolution", scale=2))
    save_model(model, tmp_path)
    weights = read_weights(tmp_path / "weights.npz")
    change(weights)
    write_arrays(tmp_path / "weights.npz", weights)
    for load in (load_model, read_model):
        with pytest.raises(HCFlowError) as caught:
            load(tmp_path)
        assert str(caught.value).startswith(str(tmp_path / "weights.npz"))
        assert reason in str(caught.value)
    with pytest.raises(HCFlowError, match="here"):
        assign_weights(model, weights, source="here")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"main_steps": 1000}, "weights for 1,003 steps and blocks"),
        ({"rrdb_blocks": [1000, 1000]}, "weights for 2,003 steps and blocks"),
        ({"main_width": 4096, "conditional_width": 4096, "rrdb_features": 4096, "rrdb_growth": 4096}, "expected (3, 3, 6, 4096)"),
        ({"task": "rescaling", "log_std_bound": None}, "missing: "),
        ({"scale": 16}, "missing: "),
    ],
)
def test_a_config_that_lies_makes_no_model_of_its_size(changes, reason, tmp_path):
    """4096 channels everywhere would be some 40 GB of weights."""
    save_model(tiny_model("super_resolution", scale=2), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"model": config["model"] | changes}))
    begin = time.process_time()
    with pytest.raises(HCFlowError) as caught:
        load_model(tmp_path)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'weights.npz'} does not fit its config: ")
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("task", ["super_resolution", "rescaling"])
def test_shapes_are_known_without_a_model(task):
    model = HCFlow(tiny_config(task))
    expected = {name: tuple(weight.shape) for name, weight in model.named_weights().items()}
    assert weight_shapes(model.config) == expected
    assert list(weight_shapes(model.config)) == list(expected)
