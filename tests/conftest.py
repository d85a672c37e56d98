"""Shared fixtures: where the reference material lies, and quiet TensorFlow."""

from __future__ import annotations

import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Two logical CPU devices, so that several replicas can be tested; TensorFlow allows it only before it starts."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with reference values and photographs; tests that need it skip where it is absent."""
    folder = pathlib.Path(os.environ.get("HCFLOW_SHARED", pathlib.Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"reference material is not at {folder} (set HCFLOW_SHARED)")
    return folder


@pytest.fixture
def eager(request):
    """Steps run operation by operation: for a few of them that is several times faster than building their graph.

    Where it is used for a whole file, tests that are marked `compiled` are left alone.
    """
    import tensorflow as tf

    tf.config.run_functions_eagerly(request.node.get_closest_marker("compiled") is None)
    yield
    tf.config.run_functions_eagerly(False)
