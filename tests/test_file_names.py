"""File names that are hard on programs, and what is found under them: they work, or are told in one line."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import unicodedata

import pytest
from tiny import photograph

from hcflow_tf.data.pairs import find_images, pair_names
from hcflow_tf.images import inputs
from hcflow_tf.images.images import ImageError, read_header, read_image, write_image
from hcflow_tf.inference import pictures
from hcflow_tf.support import cli
from hcflow_tf.support.errors import HCFlowError
from hcflow_tf.support.files import expand_user

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Ärger é 日本") for form in ("NFC", "NFD"))
NAMES = {
    "spaces": "  two  words ",
    "composed": COMPOSED,
    "decomposed": DECOMPOSED,
    "line break": "two\nlines",
    "leading dash": "-photo",
    "looks like an option": "--model",
    "not UTF-8": os.fsdecode(b"caf\xe9"),
    "home": "~draft",
    "someone else's home": "~nobody-of-this-name",
    "quotes": 'it\'s "quoted" $HOME `ls` %s {0} *?[a]',
    "terminal commands": "\x1b[2J\x07",
    "as long as it gets": "x" * 251,
    "dots": "a.b..c",
    "right to left": "\u202egnp.exe",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(path: str) -> list[str]:
    """The names in a folder."""
    return sorted(entry.name for entry in pathlib.Path(path).iterdir())


def named(stem: str, suffix: str = ".png") -> str:
    """An image with this name in the working directory."""
    try:
        write_image("image.png", photograph(20, 24))
        pathlib.Path("image.png").rename(stem + suffix)
    except OSError:
        pytest.skip("this file system has no such names")
    return stem + suffix


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("command", ["upscale", "downscale"])
def test_names_of_inputs(kind, command, folder, capsys):
    name = named(NAMES[kind])
    assert cli.execute(command, ["--model", "bicubic", "-o", "out", "--", name]) == 0
    assert listing("out") == [name]
    assert read_image(pathlib.Path("out", name)).rgb.size
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("[1/1] ")
    assert line.isprintable()


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_bad_inputs_are_told_in_one_line(kind, folder, capsys):
    name = named(NAMES[kind])
    pathlib.Path(name).write_bytes(b"not an image")
    assert cli.execute("upscale", ["--model", "bicubic", "-o", "out", "--", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hcflow upscale: ")
    assert line.endswith(": not a PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, HEIC or JPEG XL image, or its header is damaged")
    assert line.isprintable()


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_folders(kind, folder, capsys):
    """As folders of inputs and outputs, of training images, and in a report."""
    name = named(NAMES[kind][:200])
    pathlib.Path("in").mkdir()
    pathlib.Path(name).rename(pathlib.Path("in", name))
    hr, out = NAMES[kind], "out" + NAMES[kind]
    pathlib.Path("in").rename(hr)
    assert cli.execute("upscale", ["--model", "bicubic", f"--output={out}", "--", hr]) == 0
    assert listing(out) == [name]
    assert cli.execute("evaluate", ["--model", "bicubic", f"--hr={hr}", "--scale=2", "--output=report.json"]) == 0
    assert list(json.loads(pathlib.Path("report.json").read_text())["images"]) == [name]
    pathlib.Path("c.yaml").write_text("{model: {scale: 2}, data: {crop_size: 8, cache_dir: cache}}")
    code = cli.execute("prepare", ["--config", "c.yaml", "--set", f"data.train.hr={json.dumps(hr, ensure_ascii=False)}"])
    captured = capsys.readouterr()
    if kind in ("not UTF-8", "terminal commands", "line break"):  # YAML has no such characters, or writes them otherwise
        assert code in (0, 2)
        assert code == 0 or captured.err.splitlines()[-1].startswith("hcflow prepare: ")
    else:
        assert (code, "training images    1" in captured.out) == (0, True)


def test_names_reach_a_process_and_its_terminal_as_they_are(folder):
    """Through a real command line, with a terminal that knows ASCII only."""
    names = [named(NAMES[kind]) for kind in ("not UTF-8", "line break", "leading dash", "composed")]
    pathlib.Path(names[0]).write_bytes(b"")
    command = [sys.executable, "-m", "hcflow_tf.upscale", "--model", "bicubic", "-o", "out", "--", *names]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1]), "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 1
    lines = done.stderr.decode("ascii").splitlines()
    assert lines[0] == "hcflow upscale: caf\\udce9.png: the file is empty"
    assert [line.partition(":")[0] for line in lines[1:-1]] == [
        "[2/4] two\\nlines.png",
        "[3/4] -photo.png",
        lines[3].partition(":")[0],
    ]
    assert lines[-1].startswith("[4/4] 3 done, 0 skipped, 1 failed, ")
    assert listing("out") == sorted(names[1:])


def test_composed_and_decomposed_names_pair(folder):
    for form, stem in (("hr", COMPOSED), ("lr", DECOMPOSED)):
        write_image(f"{form}/{stem}.png", photograph(8, 8))
    (pair,) = pair_names("hr", "lr", 4)
    assert (pair.hr.stem, pair.lr.stem) == (COMPOSED, DECOMPOSED)


@pytest.mark.parametrize(("name", "reason"), [("", "an input without a name"), ("x" * 300, "File name too long")])
def test_names_that_no_file_has(name, reason, folder, capsys):
    assert cli.execute("upscale", ["--model", "bicubic", name, "-o", "out"]) == 1
    assert reason in capsys.readouterr().err
    assert cli.execute("upscale", ["--model", "bicubic", named("a"), "-o", name]) == (1 if name else 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hcflow upscale: ")
    assert listing(".") == ["a.png"]


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert [str(expand_user(name)) for name in ("~/a", "~", "a~", "~nobody-of-this-name/a")] == [
        "/home/ada/a", "/home/ada", "a~", "~nobody-of-this-name/a",
    ]  # fmt: skip


# What is no file.


def test_links_in_a_circle(folder, capsys):
    pathlib.Path("a.png").symlink_to("b.png")
    pathlib.Path("b.png").symlink_to("a.png")
    pathlib.Path("circle").symlink_to("circle")
    pathlib.Path("dangling.png").symlink_to("nowhere")
    assert cli.execute("upscale", ["--model", "bicubic", "a.png", "circle", "dangling.png", named("good"), "-o", "out"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "hcflow upscale: a.png: Too many levels of symbolic links",
        "hcflow upscale: circle: Too many levels of symbolic links",
        "hcflow upscale: dangling.png: a link to a file that does not exist",
    ]
    assert listing("out") == ["good.png"]
    with pytest.raises(HCFlowError, match="circle: Too many levels of symbolic links"):
        find_images("circle")
    with pytest.raises(ImageError, match=r"a\.png: Too many levels of symbolic links"):
        read_header("a.png")
    assert cli.execute("upscale", ["--model", "bicubic", "good.png", "-o", "circle/out.png"]) == 1
    assert "cannot write circle/out.png: " in capsys.readouterr().err


def within(seconds: float, work) -> None:
    """Fails, instead of waiting for ever, if `work` blocks."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "blocks"


@pytest.mark.parametrize("kind", ["pipe.png", "/dev/zero", "/dev/random", "socket.png"])
def test_pipes_and_devices_are_not_waited_for(kind, folder, capsys):
    os.mkfifo("pipe.png")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("socket.png")
        codes = []
        arguments = ["--model", "bicubic", kind, "-o", "out"]
        within(20, lambda: codes.append(cli.execute("upscale", arguments)))
        within(20, lambda: codes.append(cli.execute("info", ["--model", kind])))
        within(20, lambda: codes.append(cli.execute("prepare", ["--config", kind])))
        within(20, lambda: codes.append(cli.execute("convert", [kind, "-o", "model"])))
    assert codes == [1, 1, 2, 1]
    err = capsys.readouterr().err
    assert f"hcflow upscale: {kind}: is a pipe, a socket or a device, not a file\n" in err
    assert len(err.splitlines()) == 4
    assert not pathlib.Path("out").exists()
    assert not pathlib.Path("model").exists()


@pytest.fixture
def unprivileged(monkeypatch):
    """A working directory, and the tests' user without root's rights."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.chdir(folder)
        pathlib.Path(folder).chmod(0o777)
        user = os.geteuid()
        try:
            os.seteuid(user or 65534)
        except OSError:
            pytest.skip("root cannot become another user here")
        yield
        os.seteuid(user)


def test_what_may_not_be_read_or_written(unprivileged, capsys):
    write_image("closed/a.png", photograph(8, 8))
    secret = named("secret")
    pathlib.Path(secret).chmod(0)
    write_image("good.png", photograph(8, 8))
    pathlib.Path("closed").chmod(0)
    pathlib.Path("fixed").mkdir(mode=0o555)
    try:
        assert cli.execute("upscale", ["--model", "bicubic", "closed", secret, "closed/a.png", "good.png", "-o", "out"]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hcflow")]
        assert lines == [
            "hcflow upscale: closed: Permission denied",
            "hcflow upscale: closed/a.png: Permission denied",
            "hcflow upscale: secret.png: Permission denied",
        ]
        assert listing("out") == ["good.png"]
        assert cli.execute("upscale", ["--model", "bicubic", "good.png", "-o", "fixed"]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == "hcflow upscale: cannot write fixed/good.png: Permission denied"
        assert cli.execute("evaluate", ["--model", "bicubic", "--hr", "closed"]) == 1
        assert capsys.readouterr().err == "hcflow evaluate: closed: Permission denied\n"
        assert cli.execute("info", ["--model", "closed"]) == 1
        assert capsys.readouterr().err == "hcflow info: closed: Permission denied\n"
    finally:
        pathlib.Path("closed").chmod(0o755)


def test_a_folder_that_vanishes_is_told(folder, monkeypatch, capsys):
    pathlib.Path("in").mkdir()
    named("good")
    is_folder = inputs.is_folder

    def then_gone(path):
        found = is_folder(path)
        if pathlib.Path(path).name == "in":
            pathlib.Path(path).rmdir()
        return found

    monkeypatch.setattr(inputs, "is_folder", then_gone)
    assert cli.execute("upscale", ["--model", "bicubic", "in", "good.png", "-o", "out"]) == 1
    assert "hcflow upscale: in: No such file or directory\n" in capsys.readouterr().err
    assert listing("out") == ["good.png"]


def test_a_file_that_vanishes_is_told(folder, monkeypatch, capsys):
    for name in ("a", "b", "c"):
        write_image(f"in/{name}.png", photograph(8, 8))

    def read_then_remove(path):
        image = read_image(path)
        pathlib.Path("in/b.png").unlink(missing_ok=True)
        return image

    monkeypatch.setattr(pictures, "read_image", read_then_remove)
    assert cli.execute("upscale", ["--model", "bicubic", "in", "-o", "out"]) == 1
    assert "hcflow upscale: in/b.png: No such file or directory\n" in capsys.readouterr().err
    assert listing("out") == ["a.png", "c.png"]


def test_thousands_of_files_that_are_no_images(folder, capsys):
    pathlib.Path("in").mkdir()
    for number in range(10_000):
        pathlib.Path(f"in/{number}.txt").touch()
    assert cli.execute("upscale", ["--model", "bicubic", "in", "-o", "out"]) == 1
    assert capsys.readouterr().err.startswith("hcflow upscale: in: no images in this folder")
    write_image("in/a.png", photograph(8, 8))
    assert cli.execute("upscale", ["--model", "bicubic", "in", "-o", "out"]) == 0
    assert listing("out") == ["a.png"]
