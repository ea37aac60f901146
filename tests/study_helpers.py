"""Folders of benchmarks to make studies of, and a study's server."""

import re
import subprocess
import sys
from contextlib import contextmanager

from PIL import Image

from headwise.pictures import save_picture
from headwise.runs.scores import Scores
from headwise.study.answers import Answers
from headwise.study.making import make_study
from headwise.study.reading import read_study

HOSTILE = 'a "<script>alert(1)</script>" \\ {vase} \n'


def draw(folder, methods, prompts, size=(16, 16)):
    """Images as a benchmark keeps them, each of its own colour."""
    for n, prompt in enumerate(prompts):
        for m, method in enumerate(methods):
            picture = Image.new("RGB", size, (40 * n % 256, 60 * m % 256, 128))
            said = {"prompt": prompt[method] if isinstance(prompt, dict) else prompt}
            save_picture(folder / "pictures" / f"{n:03d} {method}.png", picture, said)
    return folder


def polysemy(folder, words=("orange", "orange", "rose")):
    """The folder of a benchmark of polysemy."""
    methods = ("plain", "rewording", "adjust")
    things = {"orange": "airplane", "rose": "sofa"}
    article = {"orange": "an", "rose": "a"}
    prompts = [f"{article[word]} {word} {things[word]}" for word in words]
    said = [{m: p if m != "rewording" else f"{p}, reworded" for m in methods} for p in prompts]
    axes = {"method": methods, "seed": (0,), "prompt": range(len(words))}
    folder.mkdir(parents=True, exist_ok=True)
    Scores.empty(axes, {"words": list(words)}).save(folder / "scores.safetensors")
    return draw(folder, methods, said)


def editing(folder, cases=4):
    """The folder of a benchmark of editing, of two attributes."""
    methods = ("prompt-to-prompt", "sdedit 0.5", "relevance")
    attributes = ["Color" if n % 2 else "Image Style" for n in range(cases)]
    axes = {"method": methods, "measure": ("alignment",), "seed": (0,), "pair": range(cases)}
    folder.mkdir(parents=True, exist_ok=True)
    Scores.empty(axes, {"attributes": attributes}).save(folder / "scores.safetensors")
    said = {"source": "a red car", **dict.fromkeys(methods, "a blue car")}
    return draw(folder, ("source", *methods), [said] * cases)


def several(folder):
    """The folder of a benchmark of several concepts."""
    methods = ("plain", "attend-and-excite", "relevance")
    axes = {"method": methods, "measure": ("full",), "seed": (0,), "prompt": range(2)}
    folder.mkdir(parents=True, exist_ok=True)
    Scores.empty(axes, {"types": ["type1", "type2"]}).save(folder / "scores.safetensors")
    return draw(folder, methods, ["a cat and a dog", HOSTILE])


def begun(folder):
    """The study of a folder, made if need be, and its answers."""
    if not (folder / "study.toml").exists():
        make_study(folder)
    study = read_study(folder)
    return study, Answers.begin(folder / "answers.sqlite", study, study.fingerprint(folder))


@contextmanager
def served(folder, *options):
    """A server of its own process: yields its address, its link, and the process."""
    command = "from headwise.cli.commands import main; main()"
    arguments = [sys.executable, "-c", command, "study", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address, link = re.search(r"(http://127\.0\.0\.1:\d+)/s/(\S+)", process.stdout.readline()).groups()
        yield address, link, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
