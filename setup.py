"""Packaging of hcflow_tf; `pip install -e .[dev]` for development."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "hcflow_tf/__init__.py").read_text(encoding="utf-8")).group(1)

setuptools.setup(
    name="hcflow_tf",
    version=VERSION,
    description="HCFlow in TensorFlow: one invertible network for image super-resolution and rescaling",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["hcflow_tf", "hcflow_tf.*"]),
    package_data={"hcflow_tf": ["py.typed", "weights/shipped_models/*/*"]},
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        # FlowBijector replaces a private cache hook of TFP: pinned until tests/test_bijectors.py passes on the next one.
        "tensorflow-probability==0.25.0",
        "tf-keras>=2.21,<2.22",
        # TFP imports distutils, which Python 3.12 and later get from setuptools.
        "setuptools<81",
        "numpy>=2",
        "pillow>=11",
        "pyyaml>=6",
        "pydantic>=2.7",
        "tifffile>=2024.1",
        # tf.summary writes through it.
        "tensorboard>=2.20",
        # Ships the quickstart photographs.
        "scikit-image>=0.25",
    ],
    extras_require={
        "export": [
            "tf2onnx>=1.17",
            "onnx>=1.20",
            "onnxruntime>=1.23",
            "ai-edge-litert>=2.1",
            "ai-edge-quantizer>=0.10",
            "tensorflow-serving-api>=2.20",
        ],
        "convert": ["torch>=2.4"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1", "latex2mathml>=3.78"],
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.14", "mypy>=2.4", "pre-commit>=4"],
    },
    entry_points={"console_scripts": ["hcflow = hcflow_tf.support.cli:main"]},
)
