"""Digests of what commands count and generate on the built-in model: equal before and after a new layout.

    python tests/golden/house.py write      makes house.json
    python tests/golden/house.py compare    says what differs

Everything goes through the command line, so that little depends on where a module lives. One thread, because
sums of floats depend on how many share them; the file says with which versions it was made, and on other
machines a digest of images may differ by rounding.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

FILE = Path(__file__).with_name("house.json")
MEASURE = ["measure", "--model", "emoji", "--pictures", "8", "--batch-size", "4"]
SHORT = ["--num-inference-steps", "6"]
COMMANDS = {
    "votes, lean": [*MEASURE, "--out", "lean"],
    "votes, paper": [*MEASURE, "--estimator", "paper", *SHORT, "--out", "paper"],
    "shard 0": [*MEASURE, *SHORT, "--shard", "0/2", "--out", "shards"],
    "shard 1": [*MEASURE, *SHORT, "--shard", "1/2", "--out", "shards"],
    "votes, shards": ["merge", "shards", "--out", "shards"],
    "votes, Ray": [*MEASURE, *SHORT, "--ray", "local", "--workers", "2", "--out", "ray"],
    "weakening": ["weaken", "Color", "--count", "2", "--ks", "0,16,64,128", "--random-orders", "1",
                  "--score", "certainty", "--seeds", "10", "--out", "weaken", *SHORT],
    "polysemy": ["benchmark", "polysemy", "--count", "4", "--seeds", "0,1", "--out", "polysemy", *SHORT],
    "strengthened": ["generate", "a red car", "--strengthen", "red:Color*1.5", "-n", "2", "--out",
                     "strengthen", *SHORT],
    "adjusted": ["generate", "a lavender vase", "--adjust", "lavender:Color-Plants", "-n", "2", "--strengths",
                 "0,0.5,1", "--out", "adjust", *SHORT],
    "edited": ["edit", "-s", "a red car", "-t", "a blue car", "--strengthen", "blue:Color", "--seeds", "0,1",
               "--out", "edit", *SHORT],
    "excited": ["excite", "a cat and a dog", "-w", "cat", "-w", "dog", "--seeds", "0,1", "--out", "excite",
                *SHORT],
}  # fmt: skip


def digest(folder):
    """Of every array and image below a folder."""
    digests = {}
    for file in sorted(folder.rglob("*.safetensors")):
        for name, array in sorted(load_file(file).items()):
            content = np.ascontiguousarray(array).tobytes()
            digests[f"{file.relative_to(folder)}:{name}"] = sha256(content).hexdigest()[:16]
    for file in sorted(folder.rglob("*.png")):
        pixels = np.asarray(Image.open(file).convert("RGB"))
        digests[str(file.relative_to(folder))] = sha256(pixels.tobytes()).hexdigest()[:16]
    return digests


def run():
    """Every command once, in an empty folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            print(name, file=sys.stderr, flush=True)
            program = [sys.executable, "-c", "from headwise.cli.commands import main; main()", *command]
            subprocess.run(program, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        return digest(Path(folder))


def main():
    """Write the digests, or compare with those that were written."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("task", choices=("write", "compare"))
    task, digests = parse.parse_args().task, run()
    if task == "write":
        machine = {
            "processor": platform.machine(),
            "torch": version("torch"),
            "diffusers": version("diffusers"),
        }
        FILE.write_text(json.dumps({"machine": machine, "digests": digests}, indent=1) + "\n")
        return
    expected = json.loads(FILE.read_text())["digests"]
    differ = [name for name in expected | digests if expected.get(name) != digests.get(name)]
    print("\n".join(differ) or f"{len(digests)} digests, all equal")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
