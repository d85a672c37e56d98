"""What every command does with arguments, errors and interrupts."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import types
import warnings

import pytest

from hcflow_tf import __version__
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError, UsageError


@pytest.fixture
def command(monkeypatch):
    """Installs hcflow_tf.fake, whose run does what the test says, and returns a function that executes it."""

    def install(run, argv=()):
        module = types.ModuleType("hcflow_tf.fake", "What the fake command does.")
        module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=1)
        module.run = run
        monkeypatch.setitem(sys.modules, "hcflow_tf.fake", module)
        return cli.execute("fake", list(argv))

    return install


def raising(error: BaseException):
    def run(args):
        raise error

    return run


def test_done_is_0_and_arguments_arrive(command, capsys):
    assert command(lambda args: print(args.number), ["--number", "7"]) == 0
    assert capsys.readouterr() == ("7\n", "")


def test_a_command_may_return_its_own_code(command):
    assert command(lambda args: 1) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (HCFlowError("a.png is truncated"), 1, "hcflow fake: a.png is truncated\n"),
        (UsageError("c.yaml: steps: unknown key"), 2, "hcflow fake: c.yaml: steps: unknown key\n"),
        (UsageError("one", "two"), 2, "hcflow fake: one\nhcflow fake: two\n"),
        (HCFlowError("a\nb\x1b[2J\udce9.png: ümläut"), 1, "hcflow fake: a\\nb\\x1b[2J\\udce9.png: ümläut\n"),
        (HCFlowError("x" * 5000), 1, "hcflow fake: " + "x" * 2000 + " ...\n"),
        (KeyboardInterrupt(), 130, "hcflow fake: interrupted\n"),
        (ValueError("first\n  second"), 1, "hcflow fake: ValueError: first second (--debug shows where)\n"),
    ],
)
def test_errors_are_one_line_and_a_code(command, capsys, error, code, line):
    assert command(raising(error)) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [HCFlowError("bad"), UsageError("bad"), ValueError("bad")])
def test_debug_shows_the_traceback(command, error):
    with pytest.raises(type(error), match="bad"):
        command(raising(error), ["--debug"])


def test_no_character_is_a_reason_to_fail(command, monkeypatch):
    """A name that is no text, on a terminal that knows only ASCII."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert command(lambda args: print("ümläut b\udce9d")) == 0
    assert written.getvalue() == b"\\xfcml\\xe4ut b\\udce9d\n"


def test_what_libraries_remark_is_not_shown(command, capfd):
    def run(args):
        warnings.warn("Corrupt EXIF data", UserWarning, stacklevel=1)
        logging.getLogger("tifffile").warning("incorrect StripByteCounts count")

    assert command(run) == 0
    assert capfd.readouterr() == ("", "")


def test_wrong_usage_is_2(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command(lambda args: None, ["--number", "x"])
    assert caught.value.code == 2
    assert "argument --number: invalid int value: 'x'" in capsys.readouterr().err


def test_help_is_the_docstring(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command(lambda args: None, ["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: hcflow fake ") and "What the fake command does." in out


def test_the_script_passes_everything_after_the_name_on(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "execute", lambda name, argv: calls.append((name, argv)) or 0)
    assert cli.main(["info", "--model", "m", "--help"]) == 0
    assert calls == [("info", ["--model", "m", "--help"])]


@pytest.mark.parametrize("argv", [[], ["traim"]])
def test_the_script_names_the_commands(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "command" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_crash():
    program = (
        "import sys, types; from hcflow_tf.support import cli; module = types.ModuleType('hcflow_tf.fake');"
        "module.add_arguments = lambda parser: None; module.run = lambda args: [print('x' * 100) for _ in range(10000)] and None;"
        "sys.modules['hcflow_tf.fake'] = module; raise SystemExit(cli.execute('fake', []))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_version():
    result = subprocess.run([sys.executable, "-m", "hcflow_tf", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"hcflow {__version__}\n"


def test_importing_the_package_does_not_wait_for_tensorflow():
    program = "import sys, hcflow_tf.support.cli, hcflow_tf.config; raise SystemExit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
