"""PyTorch's weight files read without PyTorch: what they hold, and that no code of theirs runs."""

from __future__ import annotations

import pathlib
import struct
import zipfile

import numpy as np
import pth
import pytest

from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.state_dict import read_state_dict

NUMBERS = np.zeros(4, np.float32)

STATE = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "module.conv.bias": np.array([0.5, -1]),
    "half": np.array([[1.5, 65504]], np.float16),
    "scalar": np.array(3, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("write", [pth.state_dict, pth.legacy])
def test_arrays_come_back_as_float32(write, tmp_path):
    (tmp_path / "w.pth").write_bytes(write(STATE))
    read = read_state_dict(tmp_path / "w.pth")
    assert list(read) == ["conv.weight", "conv.bias", "half", "scalar", "empty"]
    for (name, array), expected in zip(read.items(), STATE.values(), strict=True):
        assert array.dtype == np.float32, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


def test_files_of_pytorch_itself(shared):
    stored = pathlib.Path(__file__).parent / "fixtures/parity"
    for name in ("sr_x4_tiny", "rescale_x4_tiny"):
        expected = dict(np.load(stored / f"{name}_weights.npz"))
        read = read_state_dict(shared / f"fixtures/parity/{name}.pth")
        assert read.keys() == expected.keys()
        for key, array in read.items():
            np.testing.assert_array_equal(array, expected[key], err_msg=key)


def test_views_and_other_numbers(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    upper_halves = np.array([0x3FC0, 0xC000], np.uint16)  # 1.5 and -2 in bfloat16
    entries = {
        "transposed": pth.tensor("0", numbers, shape=(4, 3), strides=(1, 4)),
        "part": pth.tensor("0", numbers, shape=(2, 2), strides=(4, 1), offset=5),
        "same for all": pth.tensor("0", numbers, shape=(2, 3), strides=(0, 0), offset=7),
        "bfloat16": pth.tensor("1", upper_halves, kind="BFloat16Storage"),
        "parameter": pth.call("torch._utils", "_rebuild_parameter", pth.tensor("0", numbers), pth.value(True), pth.value(None)),
        "a": pth.tensor("0", numbers),
    }
    file = pth.archive(pth.mapping(entries), {"0": numbers.tobytes(), "1": upper_halves.tobytes(), "filler": bytes(999)})
    (tmp_path / "w.pth").write_bytes(file)
    read = read_state_dict(tmp_path / "w.pth")
    np.testing.assert_array_equal(read["transposed"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(read["part"], [[5, 6], [9, 10]])
    np.testing.assert_array_equal(read["same for all"], np.full((2, 3), 7))
    np.testing.assert_array_equal(read["bfloat16"], [1.5, -2])
    np.testing.assert_array_equal(read["parameter"], numbers)


@pytest.mark.parametrize("write", [pth.state_dict, pth.legacy])
def test_counters_of_batchnorm_are_left_out(write, tmp_path):
    file = write({"norm.weight": NUMBERS, "norm.num_batches_tracked": np.array(7, np.int64)})
    (tmp_path / "w.pth").write_bytes(file)
    assert read_state_dict(tmp_path / "w.pth").keys() == {"norm.weight"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (pth.call("posix", "system", pth.value("touch marker")), "it names posix.system, which no plain state dict holds"),
        (pth.call("builtins", "eval", pth.value("1")), "names builtins.eval"),
        (pth.call("torch.hub", "load", pth.value("a")), "names torch.hub.load"),
        (pth.call("torch._utils", "_rebuild_sparse_tensor"), "names torch._utils._rebuild_sparse_tensor"),
        (b"cpathlib\nPath\n)\x81", "names pathlib.Path"),
        (pth.value("text"), "expected a mapping from names to tensors"),
        (
            b"ctorch._utils\n_rebuild_tensor_v2\n" + pth.value({"a": 1}) + b"b",
            "attribute",
        ),  # nothing can be put on what a name stands for
        (pth.tensor("0", NUMBERS, shape=(5,), strides=(1,)), "reaches to element 4 of a storage of 4"),
        (pth.tensor("0", NUMBERS, shape=(4,), strides=(1,), offset=1), "reaches to element 4 of a storage of 4"),
        (pth.tensor("0", NUMBERS, shape=(4,), strides=(1,), count=5), "storage '0' has 16 bytes, expected 5 elements"),
        (pth.tensor("0", NUMBERS, shape=(2,), strides=(-1,), offset=3), "no shape of whole numbers"),
        (pth.tensor("0", NUMBERS, shape=(1.5,), strides=(1,)), "no shape of whole numbers"),
        (pth.tensor("0", NUMBERS, shape=(2**20, 2**20), strides=(0, 0)), "claim to be larger than the file"),
        (pth.tensor("9", NUMBERS), "no item named"),
        (pth.tensor("0", np.zeros(2, np.complex64)), "is a tensor of ComplexFloat, not of real numbers"),
        (pth.tensor("0", np.zeros(2, np.int64)), "is a tensor of Long, not of real numbers"),
        (pth.call("torch._utils", "_rebuild_tensor_v2", pth.value(1)), "missing"),
        (pth.value(("storage", 1)) + b"Q", "no storage of a tensor"),
    ],
)
def test_what_is_refused(entry, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("w.pth").write_bytes(pth.archive(pth.mapping({"a": entry}), {"0": NUMBERS.tobytes()}))
    with pytest.raises(HCFlowError, match="w.pth is not a PyTorch state dict of plain tensors: .*" + message.replace(".", r"\.")):
        read_state_dict("w.pth")
    assert not pathlib.Path("marker").exists()


def test_names_that_are_none(tmp_path):
    (tmp_path / "w.pth").write_bytes(pth.state_dict({"a": NUMBERS}, {7: pth.tensor("0", NUMBERS)}))
    with pytest.raises(HCFlowError, match="a name is no text, but of type int"):
        read_state_dict(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(pth.state_dict({"a": NUMBERS, "module.a": NUMBERS}))
    with pytest.raises(HCFlowError, match="holds a name twice"):
        read_state_dict(tmp_path / "w.pth")


def test_damaged_files(tmp_path):
    whole, old = pth.state_dict({"a": np.zeros(1000, np.float32)}), pth.legacy({"a": np.zeros(1000, np.float32)})
    compressed = pth.archive(pth.mapping({"a": pth.tensor("0", NUMBERS)}), {"0": NUMBERS.tobytes()}, zipfile.ZIP_DEFLATED)
    for content, message in (
        (whole[:-500], "neither a zip archive nor"),
        (old[:-500], "its tensors claim to be larger than the file"),
        (old[:-4008] + struct.pack("<q", 1001) + bytes(4000), "a storage of 1,001 elements, with 4,000 bytes left"),
        (old[:14] + b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + bytes(100) + b".", ""),
        (old[:14] + b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".", ""),
        (old[:14] + b"\x80\x02}r\xff\xff\xff\x7f.", ""),  # a memo of two billion places
        (old[:100], ""),
        (b"", "neither a zip archive nor"),
        (b"hello", "neither a zip archive nor"),
        (compressed, "its entries are compressed, as torch.save never does it"),
    ):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(HCFlowError, match=f"w.pth is not a PyTorch state dict of plain tensors: {message}"):
            read_state_dict(tmp_path / "w.pth")
    with pytest.raises(HCFlowError, match=r"no weight file at .*absent\.pth"):
        read_state_dict(tmp_path / "absent.pth")
