"""The Android example: a Kotlin compiler reads it over stubs of Android's and LiteRT's classes, and its tiling runs."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "android"
LIBRARY = EXAMPLE / "node_modules" / "kotlin-compiler" / "lib"


def test_compiles_and_joins_its_tiles(tmp_path):
    if not (java := shutil.which("java")):
        pytest.skip("no Java on the PATH")
    if not LIBRARY.is_dir():
        pytest.skip("no Kotlin compiler: npm --prefix examples/android ci")
    sources = [EXAMPLE / "Upscaler.kt", *sorted((EXAMPLE / "stubs").glob("*.kt"))]
    compiler = [java, "-cp", f"{LIBRARY}/*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-Werror", "-no-reflect"]
    compiled = subprocess.run([*compiler, *sources, "-d", tmp_path / "check.jar"], capture_output=True, text=True, timeout=300)
    assert compiled.returncode == 0, compiled.stderr
    path = f"{tmp_path / 'check.jar'}:{LIBRARY / 'kotlin-stdlib.jar'}"
    finished = subprocess.run([java, "-cp", path, "CheckKt"], capture_output=True, text=True, timeout=60)
    assert finished.stdout == "ok\n", finished.stderr
