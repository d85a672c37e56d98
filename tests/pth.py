"""Writes PyTorch weight files without PyTorch: state dicts as torch.save writes them, and pickles that no such file holds."""

from __future__ import annotations

import io
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "c8": "ComplexFloatStorage"}


def value(item: object) -> bytes:
    """Opcodes that put a plain value on the stack."""
    return pickle.dumps(item, protocol=2)[2:-1]


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """Opcodes that call a global name."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def tensor(key: str, array: np.ndarray, *, shape=None, strides=None, offset=0, kind=None, count=None, legacy=False) -> bytes:
    """Opcodes of one tensor whose storage holds the array's values; what is given says otherwise."""
    kind = kind or KINDS[array.dtype.str[1:]]
    storage = b"(" + value("storage") + f"ctorch\n{kind}\n".encode() + value(key) + value("cpu")
    storage += value(array.size if count is None else count) + (value(None) if legacy else b"") + b"tQ"
    shape = array.shape if shape is None else shape
    strides = tuple(step // array.itemsize for step in array.copy().strides) if strides is None else strides
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", storage, value(offset), value(shape), value(strides), value(False), hooks)


def mapping(entries: Mapping[object, bytes], dictionary: bytes | None = None) -> bytes:
    """A whole pickle of a mapping from names to what the opcodes make."""
    items = b"".join(value(name) + item for name, item in entries.items())
    return b"\x80\x02" + (dictionary or call("collections", "OrderedDict")) + b"(" + items + b"u."


def archive(program: bytes, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The file of PyTorch 1.6 and later."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", "little")
        for key, content in storages.items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def state_dict(state: Mapping[str, np.ndarray], changed: Mapping[object, bytes] | None = None) -> bytes:
    """A file of these arrays; entries of `changed`, opcodes, are added or replace others."""
    entries: dict[object, bytes] = {name: tensor(str(number), array) for number, (name, array) in enumerate(state.items())}
    storages = {str(number): array.tobytes() for number, array in enumerate(state.values())}
    return archive(mapping(entries | dict(changed or {})), storages)


def legacy(state: Mapping[str, np.ndarray]) -> bytes:
    """The same in the format before PyTorch 1.6."""
    start = b"".join(pickle.dumps(item, protocol=2) for item in (MAGIC, 1001, {"little_endian": True}))
    program = mapping({name: tensor(f"s{n}", array, legacy=True) for n, (name, array) in enumerate(state.items())})
    keys = pickle.dumps([f"s{n}" for n in range(len(state))], protocol=2)
    storages = [struct.pack("<q", array.size) + array.tobytes() for array in state.values()]
    return start + program + keys + b"".join(storages)


def save(state: Mapping[str, np.ndarray], path: pathlib.Path) -> pathlib.Path:
    """Writes `state_dict` and returns the path."""
    path.write_bytes(state_dict(state))
    return path
