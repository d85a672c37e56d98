"""Starting TensorFlow without the lines it prints, so that a command's own line is the one that shows."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices; what it logs on the way shows only if that fails."""
    if "tensorflow" in sys.modules:
        return
    with held_back_stderr():
        import tensorflow as tf
        import tensorflow_probability  # noqa: F401

        tf.config.list_physical_devices()


@contextlib.contextmanager
def held_back_stderr(*, show_on_failure: bool = True) -> Iterator[None]:
    """What is written to the process's stderr, by C++ code too, is dropped, or shown if the block fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            if show_on_failure:
                held_back.seek(0)
                os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
