"""What is released: a wheel and a source archive that work where nothing else of ours is, and the Space."""

import os
import re
import runpy
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import headwise
from helpers import ROOT

SPACE = ROOT / "integrations" / "space"


def built(source, target, kind):
    """The archive of this kind that hatchling builds of a source folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an empty environment with the wheel; what it depends on is lent from here."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    here = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    options = ["--python", str(here), "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *options], check=True, capture_output=True)
    site = subprocess.check_output(
        [here, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    )
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site.strip()) / "lent.pth").write_text("\n".join(lent))
    return here


def run(python, *words, **options):
    """What a command prints, away from the repository."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.check_output([python, *words], text=True, env=clean, **options)


def test_the_wheel_alone_measures(python, tmp_path):
    where = run(python, "-c", "import headwise; print(headwise.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parent.parent)
    command = python.parent / "headwise"
    assert run(command, "--version", cwd=tmp_path) == f"headwise {headwise.__version__}\n"
    few = ["--pictures", "2", "--num-inference-steps", "1", "--out", "here"]
    run(command, "measure", *few, cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert "Color" in run(command, "show", "here", "--concept", "Color", cwd=tmp_path)


def test_the_source_archive_builds_the_same_wheel(wheel, tmp_path):
    archive = built(ROOT, tmp_path / "archive", "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = built(source, tmp_path / "again", "wheel")
    assert contents(again) == contents(wheel)


def contents(wheel):
    """The files of a wheel with their checksums; its record holds these once more."""
    with zipfile.ZipFile(wheel) as opened:
        return {info.filename: info.CRC for info in opened.infolist()}


def test_the_space_serves_the_page_behind_its_proxy(monkeypatch):
    given = []
    monkeypatch.setattr("headwise.cli.commands.main", given.append)
    monkeypatch.setenv("SPACE_HOST", "user-headwise.hf.space")
    monkeypatch.delenv("HEADWISE_MODEL", raising=False)
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    (words,) = given
    assert words[0] == "serve"
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--allow-host"] == "user-headwise.hf.space"
    assert (options["--host"], options["--port"], options["--model"]) == ("0.0.0.0", "7860", "emoji")


def test_the_space_names_the_wheel_of_this_version():
    assert f"headwise-{headwise.__version__}-py3" in (SPACE / "requirements.txt").read_text()
    head = re.match(r"---\n(.*?)\n---\n", (SPACE / "README.md").read_text(), re.S)
    assert head and "app_file: app.py" in head[1]
