"""`hcflow export onnx` as a script that works in a checkout that is not installed; --help explains it."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from hcflow_tf.export import script

if __name__ == "__main__":
    sys.exit(script("onnx"))
