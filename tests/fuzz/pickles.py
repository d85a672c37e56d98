"""PyTorch weight files (.pth) that lie. Needs torch, which is an optional extra."""

from __future__ import annotations

import io
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np
import torch

from fuzz.mutations import mutants
from fuzz.weights import BOMB_BYTES, Program, npz


def pth(state: object, **options: object) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def lying_pth(state: Mapping[str, np.ndarray], seed: int, mutated: int) -> dict[str, bytes]:
    """File name -> content: structured lies about this state dict in the authors' names, then damaged files."""
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    name = next(key for key in tensors if key.endswith("conv1.weight"))
    whole, old = pth(tensors), pth(tensors, _use_new_zipfile_serialization=False)
    files = {kind: pth(changed) for kind, changed in _states(tensors, name).items()} | _programs(tensors, whole)
    files |= {"old_format": old, "compressed": _repacked(whole, {}, zipfile.ZIP_DEFLATED)}
    files = {f"{kind}.pth": content for kind, content in files.items()}
    bases = {"new.pth": whole, "old.pth": old, "pickle.pth": _member(whole, "data.pkl")}
    files |= mutants(bases, mutated // 2, random.Random(seed))
    for number, (kind, content) in enumerate(
        mutants({"p": _member(whole, "data.pkl")}, mutated - mutated // 2, random.Random(seed)).items()
    ):
        files[f"{kind}-{number}.pth"] = _repacked(whole, {"data.pkl": content})
    return files


def _states(tensors: dict[str, torch.Tensor], name: str) -> dict[str, object]:
    """What may stand in a file instead of a state dict, and state dicts that are not what they seem."""
    one = tensors[name]
    steps = next(key for key in tensors if ".layers.1." in key)
    return {
        "whole": tensors,
        "parameters": {key: torch.nn.Parameter(value) for key, value in tensors.items()},
        "nothing": {},
        "none": None,
        "number": 3,
        "text": "weights",
        "list": list(tensors.values()),
        "nested": {"state_dict": tensors},
        "number_keys": dict(enumerate(tensors.values())),
        "mixed_keys": {**tensors, 7: one},
        "tuple_key": {**tensors, ("a", 1): one},
        "module_twice": {**tensors, f"module.{name}": one},
        "missing": {key: value for key, value in tensors.items() if key != name},
        "shape": {**tensors, name: torch.zeros(3, 3)},
        "scalar": {**tensors, name: torch.tensor(1.0)},
        "empty_tensor": {**tensors, name: torch.zeros(0, *one.shape[1:])},
        "empty_first": {**tensors, **{key: value[:0] for key, value in tensors.items() if "conv_first.weight" in key}},
        "wide": {**tensors, **{key: torch.zeros(200_000, 1, 1, 1) for key in tensors if "conv1.weight" in key}},
        "nan": {**tensors, name: torch.full_like(one, float("nan"))},
        "large": {key: torch.full_like(value, 3e38) for key, value in tensors.items()},
        "half": {key: value.half() for key, value in tensors.items()},
        "bfloat16": {key: value.bfloat16() for key, value in tensors.items()},
        "double": {key: value.double() * 1e300 for key, value in tensors.items()},
        "complex": {**tensors, name: one.to(torch.complex64)},
        "integers": {**tensors, name: one.long()},
        "booleans": {**tensors, name: one > 0},
        "sparse": {**tensors, name: one.to_sparse()},
        "quantized": {**tensors, name: _quantized(one)},
        "meta": {**tensors, name: one.to("meta")},
        "expanded": {**tensors, name: torch.zeros(1).expand(2**20, 2**20)},
        "expanded_twice": {**tensors, "a": torch.zeros(1).expand(2**31), "b": torch.zeros(1).expand(2**31)},
        "many_levels": {**tensors, **{f"flow.level{level}_condFlow.f.bias": torch.zeros(1) for level in range(300)}},
        "many_steps": {**tensors, **{f"flow.layers.{step}.actnorm.bias": torch.zeros(1) for step in range(3000)}},
        "large_numbers": {**tensors, f"flow.layers.{'9' * 5000}.actnorm.bias": one},
        "odd_digits": {**tensors, "flow.layers.\u0663.actnorm.bias": one},
        "control_name": {**tensors, "a\n\x1b[2J": one},
        "long_name": {**tensors, "x" * 100_000: one},
        "surrogate_name": {**tensors, "\udcff": one},
        "no_step": {key: value for key, value in tensors.items() if not key.startswith(steps.rpartition(".")[0])},
    }


def _quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files hold what new ones should not
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _programs(tensors: dict[str, torch.Tensor], whole: bytes) -> dict[str, bytes]:
    """Pickles that run code where they are trusted, and archives that are not what they say."""
    program = pickle.dumps(Program(), protocol=2)
    encrypted = bytearray(whole)
    encrypted[whole.find(b"PK\x01\x02") + 8] |= 1
    return {
        "program": program,
        "program_in_zip": _repacked(whole, {"data.pkl": program}),
        "program_as_value": pth({**tensors, "program": Program()}),
        "program_old": pth({**tensors, "program": Program()}, _use_new_zipfile_serialization=False),
        "whole_module": pth(torch.nn.Linear(2, 2)),
        "call": b"\x80\x02cos\nsystem\n(S'touch marker'\ntR.",
        "call_of_builtin": b'\x80\x02cbuiltins\neval\n(S\'__import__("os").system("touch marker")\'\ntR.',
        "global_of_torch": b"\x80\x02ctorch.hub\nload\n(S'a'\ntR.",
        "deep_pickle": b"\x80\x02" + b"(" * 300_000 + b"t" * 300_000 + b".",
        "long_integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + bytes(100) + b".",
        "long_bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        "memo": b"\x80\x02}r\xff\xff\xff\x7f.",
        "laughs": b"\x80\x02]q\0" + b"".join(b"]q%c(%se" % (i + 1, b"h%c" % i * 9) for i in range(60)) + b".",
        "torchscript": _repacked(
            whole, {"constants.pkl": pickle.dumps((), 2), "code/a.py": b"import os; os.system('touch marker')"}
        ),
        "bomb": _repacked(whole, {"data/0": bytes(BOMB_BYTES)}, zipfile.ZIP_DEFLATED),
        "encrypted": bytes(encrypted),
        "npz": npz({"a.npy": b"\x93NUMPY"}),
        "empty": b"",
        "zeros": bytes(4000),
        "text": b"hello\n",
        "tail": whole + bytes(999),
    }


def _member(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return next(file.read(entry) for entry in file.namelist() if entry.endswith(f"/{name}"))


def _repacked(archive: bytes, changed: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with some entries changed, and checksums that are right again."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        entries = {entry: file.read(entry) for entry in file.namelist()}
    folder = next(iter(entries)).partition("/")[0]
    return npz(entries | {f"{folder}/{name}": content for name, content in changed.items()}, compression)
