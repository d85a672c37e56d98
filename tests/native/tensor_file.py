"""The file of requests and results that saved_model_client.c reads and writes."""

from __future__ import annotations

import math
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np
import tensorflow as tf


def write_requests(path: pathlib.Path, requests: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes requests: signature -> input -> value; byte strings as arrays of dtype object or S."""
    with path.open("wb") as file:
        for signature, tensors in requests.items():
            _write_name(file, signature)
            file.write(struct.pack("=I", len(tensors)))
            for name, value in tensors.items():
                _write_name(file, name)
                _write_tensor(file, value)


def read_results(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """Signature -> output -> value."""
    with path.open("rb") as file:
        return dict(_results(file))


def _results(file: BinaryIO) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    while head := file.read(4):
        signature = file.read(*struct.unpack("=I", head)).decode()
        (count,) = struct.unpack("=I", file.read(4))
        yield signature, {_read_name(file): _read_tensor(file) for _ in range(count)}


def _write_name(file: BinaryIO, name: str) -> None:
    file.write(struct.pack("=I", len(name)) + name.encode())


def _read_name(file: BinaryIO) -> str:
    return file.read(*struct.unpack("=I", file.read(4))).decode()


def _write_tensor(file: BinaryIO, value: np.ndarray) -> None:
    strings = value.dtype.kind in "SO"
    kind = tf.string if strings else tf.as_dtype(value.dtype)
    content = b"".join(struct.pack("=Q", len(item)) + item for item in value.ravel()) if strings else value.tobytes()
    sizes = struct.pack(f"={value.ndim}q", *value.shape)
    file.write(struct.pack("=II", kind.as_datatype_enum, value.ndim) + sizes + struct.pack("=Q", len(content)) + content)


def _read_tensor(file: BinaryIO) -> np.ndarray:
    kind, rank = struct.unpack("=II", file.read(8))
    shape = struct.unpack(f"={rank}q", file.read(8 * rank))
    content = file.read(*struct.unpack("=Q", file.read(8)))
    if tf.as_dtype(kind) != tf.string:
        return np.frombuffer(content, tf.as_dtype(kind).as_numpy_dtype).reshape(shape)
    strings, position = [], 0
    for _ in range(math.prod(shape)):
        (length,) = struct.unpack_from("=Q", content, position)
        strings.append(content[position + 8 : position + 8 + length])
        position += 8 + length
    return np.array(strings, object).reshape(shape)
