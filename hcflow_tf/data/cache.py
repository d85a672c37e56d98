"""Decoded images, kept in memory or on disk: decoding a 2K PNG for every crop would starve training."""

from __future__ import annotations

import abc
import functools
import hashlib
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Iterable

import numpy as np

from hcflow_tf.config import DataConfig
from hcflow_tf.data.pairs import Pair, fit_to_scale, load_files, load_pair
from hcflow_tf.images.images import ImageError
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import atomic_path, expand_user, status

CACHE_VERSION = 1
"""Part of every disk cache key: raise it when decoding, `fit_to_scale` or `imresize` give other values than before."""

# Not .npy: numpy reads its header with ast.literal_eval, which fails at random in threads before Python 3.11.8
# (python/cpython issue 106905), there and in whatever else of the process parses code at that moment, as TensorFlow does.
_MAGIC, _HEADER = b"HCFrgb8\0", struct.Struct("<8sII")

_MAPPED_PAIRS = 4096
"""Pairs of the disk cache that stay mapped: opening one takes a millisecond, and Linux allows a process 65,530 mappings."""


class Cache(abc.ABC):
    """Gives decoded pairs; `get` is safe to call from several threads."""

    def __init__(self, scale: int):
        self.scale = scale

    @abc.abstractmethod
    def get(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """HR [h * scale, w * scale, 3] and LR [h, w, 3], uint8, read-only; decoded and kept if they are not there yet.

        Raises:
          ImageError: a file is unreadable.
          HCFlowError: the sizes of a pair do not fit, or the cache cannot be written.
        """

    def holds(self, pair: Pair) -> bool:
        """Whether `get` needs no decoding."""
        return False

    def forget(self, pairs: Iterable[Pair]) -> None:
        """Removes what it holds of these pairs from the disk; others keep nothing beyond the process."""
        del pairs

    def check_room(self, pixels: int) -> None:
        """Checks, before anything is decoded, that HR images of so many pixels in all, and their LR images, fit.

        Raises:
          HCFlowError: they do not; says how much is missing.
        """
        del pixels


class NoCache(Cache):
    """Decodes at every `get`."""

    def get(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Decodes; see `Cache.get`."""
        return load_pair(pair, self.scale)


class MemoryCache(Cache):
    """Keeps every pair in memory: 3 bytes per pixel of HR and of LR."""

    def __init__(self, scale: int):
        super().__init__(scale)
        self._arrays: dict[Pair, tuple[np.ndarray, np.ndarray]] = {}

    def get(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """From memory; see `Cache.get`."""
        if pair not in self._arrays:
            self._arrays[pair] = load_pair(pair, self.scale)
        return self._arrays[pair]

    def holds(self, pair: Pair) -> bool:
        """Whether the pair is in memory."""
        return pair in self._arrays


class DiskCache(Cache):
    """Keeps every pair as two files of raw pixels, of which a crop reads only the pages it touches.

    The name of a file is a hash of its image's path, size and modification time, so a changed image is decoded anew.
    HR files serve every scale. A file that does not read back as an image of the right size is written again.
    """

    def __init__(self, scale: int, folder: str | os.PathLike):
        super().__init__(scale)
        self.folder = expand_user(folder)
        self._files: dict[Pair, tuple[pathlib.Path, pathlib.Path]] = {}
        self._mapped = functools.lru_cache(_MAPPED_PAIRS)(self._open_or_fill)

    def get(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """From disk, as memory maps; see `Cache.get`."""
        return self._mapped(pair)

    def holds(self, pair: Pair) -> bool:
        """Whether both files are there and whole."""
        return self._open(pair) is not None

    def check_room(self, pixels: int) -> None:
        """Against the free space of the disk; see `Cache.check_room`."""
        existing = next(folder for folder in (self.folder, *self.folder.absolute().parents) if status(folder))
        needed, free = round(3 * pixels * (1 + self.scale**-2)), shutil.disk_usage(existing).free
        if needed > free:
            raise HCFlowError(
                f"data.cache_dir: the decoded images need {needed / 1e9:.1f} GB more in {self.folder}, {free / 1e9:.1f} GB are "
                "free; name another folder, or set data.cache to none"
            )

    def forget(self, pairs: Iterable[Pair]) -> None:
        """Removes the files of these pairs, as far as there are any; pairs that cannot be read have none.

        Raises:
          HCFlowError: a file cannot be removed.
        """
        for pair in pairs:
            try:
                for file in self._names(pair):
                    file.unlink(missing_ok=True)
            except ImageError:
                continue
            except OSError as error:
                raise HCFlowError(f"cannot remove {error.filename}: {error.strerror}") from error

    def size(self, pairs: Iterable[Pair]) -> int:
        """Bytes that these pairs take on disk, in files of the cache."""
        files = {file for pair in pairs for file in self._names(pair)}
        return sum(file.stat().st_size for file in files if file.exists())

    def _open_or_fill(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        found = self._open(pair)
        if found is not None:
            return found
        hr_file, lr_file = self._names(pair)
        # An HR file without an LR file is there from another scale; beside an LR file that does not fit, neither is trusted.
        hr, lr = None if lr_file.exists() else _open_array(hr_file), None
        if hr is None or pair.lr is not None or min(hr.shape[:2]) < self.scale:
            hr, lr = load_files(pair, self.scale)
            _write_array(hr_file, hr)
        _write_array(lr_file, fit_to_scale(hr, lr, self.scale)[1])
        found = self._open(pair)
        if found is None:
            raise HCFlowError(f"{self.folder}: the cache does not give back what was just written for {pair.hr}")
        return found

    def _open(self, pair: Pair) -> tuple[np.ndarray, np.ndarray] | None:
        hr, lr = (_open_array(file) for file in self._names(pair))
        if hr is None or lr is None or [side // self.scale for side in hr.shape[:2]] != list(lr.shape[:2]):
            return None
        return fit_to_scale(hr, lr, self.scale)

    def _names(self, pair: Pair) -> tuple[pathlib.Path, pathlib.Path]:
        if pair not in self._files:
            hr, lr = _identity(pair.hr), pair.lr and _identity(pair.lr)
            self._files[pair] = (
                self.folder / f"{_digest('hr', hr)}.rgb",
                self.folder / f"{_digest('lr', hr, lr, self.scale)}.rgb",
            )
        return self._files[pair]


def open_cache(data: DataConfig, scale: int) -> Cache:
    """The cache that `data.cache` names."""
    if data.cache == "disk":
        return DiskCache(scale, data.cache_dir)
    return MemoryCache(scale) if data.cache == "memory" else NoCache(scale)


def _identity(path: pathlib.Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps([CACHE_VERSION, *parts]).encode()).hexdigest()[:32]


def _open_array(file: pathlib.Path) -> np.ndarray | None:
    """A memory map of a cached image; None if the file is missing, cut short, or something else."""
    try:
        with file.open("rb") as opened:
            magic, height, width = _HEADER.unpack(opened.read(_HEADER.size))
            size = os.fstat(opened.fileno()).st_size
            if magic != _MAGIC or height * width == 0 or size != _HEADER.size + height * width * 3:
                return None
            return np.memmap(opened, np.uint8, "r", _HEADER.size, (height, width, 3))
    except (OSError, struct.error):
        return None


def _write_array(file: pathlib.Path, array: np.ndarray) -> None:
    with atomic_path(file) as temporary, temporary.open("wb") as opened:
        opened.write(_HEADER.pack(_MAGIC, *array.shape[:2]))
        opened.write(np.ascontiguousarray(array).data)
