"""Builds the C programs over the libraries inside the Python wheels.

python tests/native/build.py saved_model_client OUTPUT
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = {
    "saved_model_client": (
        "tests/native/saved_model_client.c",
        "tensorflow",
        ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2"),
    ),
    "litert_decode": ("examples/litert_c/decode.c", "ai_edge_litert", ("libLiteRt.so",)),
}
"""Program -> its source, the package whose library it uses, the files of that library."""


def compiler() -> str | None:
    """The C compiler: $CC, or cc."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(name: str, output: pathlib.Path) -> None:
    """Compiles and links one of `PROGRAMS`; warnings are errors.

    Raises:
      subprocess.CalledProcessError: the compiler refuses.
    """
    source, package, libraries = PROGRAMS[name]
    spec = importlib.util.find_spec(package)
    folder = pathlib.Path(spec.submodule_search_locations[0])
    command = [compiler(), "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command += [f"-I{folder / 'include'}", str(ROOT / source), "-o", str(output), f"-L{folder}", f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, *(f"-l:{library}" for library in libraries), "-lm"], check=True)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("output", type=pathlib.Path)
    args = parser.parse_args()
    if compiler() is None:
        sys.exit("build.py: no C compiler (cc, or name one by CC)")
    build(args.program, args.output)


if __name__ == "__main__":
    main()
