"""Weight files that lie: .npz archives and .pth pickles that are cut, changed, oversized, or programs."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np

from fuzz.harness import MARKER
from fuzz.mutations import mutants

Arrays = Mapping[str, np.ndarray]

BOMB_BYTES = 1_500_000_000
"""What a bomb holds: more than the harness gives."""


class Program:
    """Unpickled, it creates the marker."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {MARKER}",)


def npz(entries: Mapping[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these entries; a list may hold a name twice."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # of names given twice
        for name, content in entries.items() if isinstance(entries, Mapping) else entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """One array as np.save writes it; objects as a pickle."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npy_header(text: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy file with any text as its header."""
    encoded = text.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(encoded))
    return b"\x93NUMPY" + bytes(version) + length + encoded + content


def lying_npz(weights: Arrays, seed: int, mutated: int) -> dict[str, bytes]:
    """File name -> content: all structured lies about these weights, then damaged archives, half of them with the right
    checksums (the damage is done to an array, which is packed again)."""
    rng = random.Random(seed)
    entries = {f"{name}.npy": npy(value) for name, value in weights.items()}
    whole, name = npz(entries), next(iter(entries))
    files = {f"{kind}.npz": npz(changed) for kind, changed in _changed_entries(entries, name).items()}
    files |= {f"{kind}.npz": content for kind, content in _archives(entries, whole).items()}
    for number, (kind, content) in enumerate(mutants({"w.npy": entries[name]}, mutated // 2, rng).items()):
        files[f"{kind}.npz"] = npz(entries | {list(entries)[number % len(entries)]: content})
    return files | mutants({"weights.npz": whole}, mutated - mutated // 2, rng)


def _changed_entries(entries: dict[str, bytes], name: str) -> dict[str, dict[str, bytes] | list[tuple[str, bytes]]]:
    """Lies about one entry (or all), in an archive that is one."""
    array = np.lib.format.read_array(io.BytesIO(entries[name]))
    shape, order = "'shape': (%s,)", "'fortran_order': False"
    huge = f"{{'descr': '<f4', {order}, {shape % 2**62}}}"
    values = {kind: np.full_like(array, value) for kind, value in (("nan", np.nan), ("inf", np.inf), ("large", 3e38))}
    types = ("<f8", "<f2", "<i8", "|u1", "|b1", "<c8", "<U4", "|S4", "<M8[s]", ">f4", "<f4,<i4", "<g")
    lies: dict = {f"all_{kind}": {key: npy(np.full_like(_array(value), values[kind].flat[0])) for key, value in entries.items()}
                  for kind in values}  # fmt: skip
    lies |= {f"one_{kind}": entries | {name: npy(value)} for kind, value in values.items()}
    lies |= {f"type_{number}": entries | {name: npy(np.zeros(array.shape, kind))} for number, kind in enumerate(types)}
    bodies = {
        "objects": npy(np.array([Program()], object)),
        "object_header": npy_header(f"{{'descr': '|O', {order}, {shape % 1}}}", pickle.dumps(Program())),
        "pickle": pickle.dumps(Program()),
        "huge": npy_header(huge),
        "huge_but_addressable": npy_header(huge.replace(str(2**62), str(40 * 2**28)), bytes(400)),
        "huge_version_2": npy_header(huge, version=(2, 0)),
        "huge_product": npy_header(f"{{'descr': '<f4', {order}, 'shape': ({2**32}, {2**32}, {2**32})}}"),
        "zero_times_huge": npy_header(f"{{'descr': '<f4', {order}, 'shape': ({2**62}, 0)}}"),
        "negative": npy_header(f"{{'descr': '<f4', {order}, 'shape': (-1,)}}", bytes(400)),
        "many_dimensions": npy_header(f"{{'descr': '<f4', {order}, 'shape': {(1,) * 200}}}", bytes(4)),
        "float_shape": npy_header(f"{{'descr': '<f4', {order}, 'shape': (1.5,)}}", bytes(400)),
        "call": npy_header(f"__import__('os').system('touch {MARKER}')"),
        "deep": npy_header("(" * 9000),
        "deep_signs": npy_header("-" * 9000 + "1"),
        "long_header": npy_header("{" + " " * 60_000 + "}"),
        "long_header_version_2": npy_header("{" + " " * 600_000 + "}", version=(2, 0)),
        "no_dictionary": npy_header("[1, 2]"),
        "no_keys": npy_header("{}"),
        "open_string": npy_header("{'descr': '''"),
        "void_of_no_size": npy_header(f"{{'descr': '|V0', {order}, {shape % 2**40}}}"),
        "subarray_type": npy_header(f"{{'descr': ('<f4', ({2**40},)), {order}, {shape % 1}}}"),
        "version_9": npy_header("{}", version=(9, 9)),
        "empty": b"",
        "magic_only": b"\x93NUMPY",
        "short": entries[name][:-1],
        "long": entries[name] + b"\0",
        "other_shape": npy(np.zeros((3, 3), np.float32)),
        "scalar": npy(np.float32(1)),
    }
    lies |= {f"entry_{kind}": entries | {name: body} for kind, body in bodies.items()}
    lies["missing"] = {key: value for key, value in entries.items() if key != name}
    lies["nothing"] = {}
    lies["only_one"] = {name: entries[name]}
    lies["twice"] = [*entries.items(), (name, entries[name])]
    lies["twice_with_other_value"] = [*entries.items(), (name, npy(values["nan"]))]
    lies["both_names"] = [*entries.items(), (name.removesuffix(".npy"), entries[name])]
    for number, path in enumerate(
        ("../../marker", "/etc/marker", "..\\marker", "C:marker", "a\nb", "\x1b[2J", "x" * 60_000, "", "é")
    ):
        lies[f"name_{number}"] = entries | {path + ".npy": entries[name]}
    lies["folder"] = entries | {"folder/": b""}
    lies["many_names"] = entries | {f"extra_{number}.npy": b"" for number in range(20_000)}
    lies["no_levels"] = {key.partition("/")[2]: value for key, value in entries.items()}
    lies["other_levels"] = {key.replace("level_1", "level_one"): value for key, value in entries.items()}
    lies["other_parts"] = {key.replace("main_step", "step"): value for key, value in entries.items()}
    return lies


def _array(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content))


def _archives(entries: dict[str, bytes], whole: bytes) -> dict[str, bytes]:
    """Lies of the archive itself."""
    encrypted = bytearray(whole)
    for position in (whole.find(b"PK\x03\x04") + 6, whole.find(b"PK\x01\x02") + 8):
        encrypted[position] |= 1
    method = bytearray(whole)
    for position in (whole.find(b"PK\x03\x04") + 8, whole.find(b"PK\x01\x02") + 10):
        method[position] = 99
    zeros = {f"a{number}.npy": npy(np.zeros(25_000_000, np.uint8)) for number in range(2)}
    inner = npz(entries)
    return {
        "bomb_deflate": npz(entries | {"b.npy": bytes(BOMB_BYTES)}, zipfile.ZIP_DEFLATED),
        "bomb_bzip2": npz(entries | zeros, zipfile.ZIP_BZIP2),
        "bomb_lzma": npz(entries | zeros, zipfile.ZIP_LZMA),
        "compressed": npz(entries, zipfile.ZIP_DEFLATED),
        "archive_in_archive": npz({"weights.npz": inner}),
        "encrypted": bytes(encrypted),
        "unknown_method": bytes(method),
        "shifted": b"#!/bin/sh\ntouch marker\n" + whole,
        "with_tail": whole + bytes(1000),
        "twice_in_a_row": whole + whole,
        "end_only": whole[whole.rfind(b"PK\x05\x06") :],
        "empty_file": b"",
        "npy": entries[next(iter(entries))],
        "pickle": pickle.dumps(Program()),
        "text": b"weights\n",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    }
