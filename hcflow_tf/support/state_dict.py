"""PyTorch state dicts (.pth) without PyTorch, and without running code from the file.

A .pth file is a pickle, and a pickle may name any function of Python to be called. This reader knows the few names that a
plain state dict needs, rebuilds the tensors as NumPy arrays itself and refuses every other name. Two formats: the zip
archive of PyTorch 1.6 and later (data.pkl, and one entry per storage) and the older stream of pickles followed by storages.
"""

from __future__ import annotations

import collections
import functools
import io
import math
import mmap
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import is_file

_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
_FLOATS = ("DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage")
_COUNTER = ".num_batches_tracked"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
_MAX_DIMENSIONS = 8
Read = Callable[[str], bytes]
"""Key of a storage -> its bytes."""


class _Storage(NamedTuple):
    kind: str
    key: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a state dict as float32 arrays, a leading "module." of their names (of DataParallel) taken off.

    The counters of BatchNorm, which only training reads, are left out.

    Raises:
      HCFlowError: there is no such file, or it is not a plain state dict of floating point tensors.
    """
    path = pathlib.Path(path)
    if not is_file(path):
        raise HCFlowError(f"no weight file at {path}")
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except Exception as error:  # of the unpickler, of every kind
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise HCFlowError(f"{path} is not a PyTorch state dict of plain tensors: {reason}") from error
    state = {name: value for name, value in state.items() if not name.endswith(_COUNTER)}
    arrays = {name.removeprefix("module."): value for name, value in state.items()}
    if len(arrays) < len(state):
        raise HCFlowError(f"{path} holds a name twice, with and without 'module.' in front")
    return arrays


def _read_zip(path: pathlib.Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # PyTorch does not compress; a file that does may be a bomb.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("its entries are compressed, as torch.save never does it")
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("its entries claim to be larger than the file")
        programs = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise ValueError("expected one entry data.pkl, as torch.save writes it")
        folder = programs[0].partition("/")[0]
        if f"{folder}/byteorder" in entries and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

        @functools.cache  # many tensors may share one storage
        def read(key: str) -> bytes:
            return archive.read(f"{folder}/data/{key}")

        state = _Unpickler(io.BytesIO(archive.read(programs[0]))).load()
        return _arrays(_check(state, size), read)


def _read_legacy(path: pathlib.Path) -> dict[str, np.ndarray]:
    with path.open("rb") as opened:
        if opened.read(len(_LEGACY_START)) != _LEGACY_START:
            raise ValueError("neither a zip archive nor a stream of pickles, as torch.save writes them")
        file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)  # reads no more than there is, whatever is asked for
    with file:
        for _ in ("magic number", "version", "system"):
            _Unpickler(file).load()
        tensors = _check(_Unpickler(file).load(), file.size())
        keys = _Unpickler(file).load()
        kinds = {tensor.storage.key: tensor.storage.kind for tensor in tensors.values()}
        if not isinstance(keys, list) or set(keys) != kinds.keys():
            raise ValueError("its storages are not those of its tensors")
        storages = {key: _next_storage(file, _item_size(kinds[key])) for key in keys}
    return _arrays(tensors, storages.__getitem__)


def _next_storage(file: mmap.mmap, item_size: int) -> bytes:
    """A number of elements (64 bits), then the elements."""
    (count,) = struct.unpack("<q", file.read(8))
    left = file.size() - file.tell()
    if not 0 <= count * item_size <= left:
        raise ValueError(f"a storage of {count:,} elements, with {left:,} bytes left in the file")
    return file.read(count * item_size)


def _check(state: object, file_size: int) -> dict[str, _Tensor]:
    """The tensors by name, if they are of real numbers and not more than the file can hold."""
    # Methods of dict, not of the object: the file may have given it attributes of the same names.
    if not isinstance(state, dict) or not all(type(value) is _Tensor for value in dict.values(state)):
        raise ValueError("expected a mapping from names to tensors")
    entries: dict[Any, _Tensor] = dict(dict.items(state))
    for name, tensor in entries.items():
        if type(name) is not str:
            raise ValueError(f"a name is no text, but of type {type(name).__name__}")
        if tensor.storage.kind not in _FLOATS and not name.endswith(_COUNTER):
            raise ValueError(f"{name[:80]!r} is a tensor of {tensor.storage.kind.removesuffix('Storage')}, not of real numbers")
    # A view may repeat one stored number billions of times.
    if sum(math.prod(tensor.shape) * _item_size(tensor.storage.kind) for tensor in entries.values()) > file_size:
        raise ValueError("its tensors claim to be larger than the file")
    return entries


def _arrays(tensors: dict[str, _Tensor], read: Read) -> dict[str, np.ndarray]:
    return {name: _array(tensor, read(tensor.storage.key)) for name, tensor in tensors.items()}


def _array(tensor: _Tensor, content: bytes) -> np.ndarray:
    """The tensor, contiguous, float32."""
    storage = tensor.storage
    if len(content) < storage.numel * _item_size(storage.kind):
        raise ValueError(f"storage {storage.key[:40]!r} has {len(content):,} bytes, expected {storage.numel:,} elements")
    values = np.frombuffer(content, _DTYPES[storage.kind], storage.numel)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, np.float32)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if last >= len(values):
        raise ValueError(f"a tensor reaches to element {last:,} of a storage of {len(values):,}")
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
    if storage.kind == "BFloat16Storage":
        return (np.ascontiguousarray(view, np.uint32) << np.uint32(16)).view(np.float32).reshape(tensor.shape)
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, as PyTorch has it
        return np.array(view, np.float32, order="C")


def _item_size(kind: str) -> int:
    return np.dtype(_DTYPES[kind]).itemsize


class _Name:
    """What a global name of the file becomes: a callable to which the file cannot add anything."""

    __slots__ = ()


class _StorageType(str):
    """The name of a storage's type; a value, not callable."""

    __slots__ = ()


class _RebuildTensor(_Name):
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(self, storage: object, offset: object, shape: object, strides: object, *_: object) -> _Tensor:
        numbers = [offset]
        if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
            raise ValueError("a tensor has no shape")
        numbers += [*shape, *strides]
        if type(storage) is not _Storage or any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a tensor has no storage or no shape of whole numbers")
        return _Tensor(storage, offset, shape, strides)  # type: ignore[arg-type]


class _RebuildParameter(_Name):
    """torch._utils._rebuild_parameter."""

    __slots__ = ()

    def __call__(self, tensor: object, *_: object) -> object:
        return tensor


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", kind): _StorageType(kind) for kind in _DTYPES},
}


class _Unpickler(pickle._Unpickler):
    """Knows `_NAMES` only.

    The one written in Python, whose memo is a dictionary: the one in C makes room for any number that a file names.
    """

    def __init__(self, file: Any):
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a global name.

        Raises:
          UnpicklingError: another name.
        """
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no plain state dict holds"[:200]) from None

    def persistent_load(self, identity: object) -> _Storage:
        """Returns the storage that ("storage", type, key, location, count, ...) speaks of."""
        if type(identity) is tuple and 5 <= len(identity) <= 6 and identity[0] == "storage" and identity[5:] in ((), (None,)):
            _, kind, key, _, count = identity[:5]
            if type(kind) is _StorageType and type(key) is str and type(count) is int and count >= 0:
                return _Storage(str(kind), key, count)
        raise pickle.UnpicklingError("it speaks of something that is no storage of a tensor")
