"""A file is whole or as it was; nothing stays beside it."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import atomic_path, write_atomically


def test_content_and_parents(tmp_path):
    path = tmp_path / "new/deep/file.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        # Writers choose the format by the suffix; a rename is only atomic within one folder.
        assert (temporary.suffix, temporary.parent) == (".png", tmp_path)
    assert path.read_bytes() == b"half"


def disk_full(temporary) -> None:
    temporary.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))


@pytest.mark.parametrize("before", [None, b"old"])
def test_disk_full_leaves_the_folder_as_it_was(tmp_path, before):
    path = tmp_path / "weights.npz"
    if before:
        path.write_bytes(before)
    with pytest.raises(HCFlowError) as caught, atomic_path(path) as temporary:
        disk_full(temporary)
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({path.name: before} if before else {})


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_any_other_end_leaves_the_folder_as_it_was_too(tmp_path, error):
    with pytest.raises(type(error)), atomic_path(tmp_path / "a.npz") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HCFlowError, match=r"cannot write .*file/a\.bin: (File exists|Not a directory)"):
        write_atomically(tmp_path / "file/a.bin", b"")


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(HCFlowError, match=r"cannot write .*a\.bin: Is a directory"):
        write_atomically(tmp_path / "a.bin", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_mode_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.bin", b"")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == mode
