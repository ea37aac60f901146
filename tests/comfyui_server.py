"""A real ComfyUI, started for the tests where HEADWISE_COMFYUI names a checkout, and asked over HTTP.

HEADWISE_COMFYUI_PYTHON names the Python that runs it, if it is not the one of the tests.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from headwise.measuring.relevance import Relevance
from helpers import wait

REPOSITORY = Path(__file__).parents[1]
CHECKOUT = os.environ.get("HEADWISE_COMFYUI")
PYTHON = os.environ.get("HEADWISE_COMFYUI_PYTHON", sys.executable)
WHY_NOT = "HEADWISE_COMFYUI does not name a checkout of ComfyUI"
ROUNDING = 1e-5  # how far apart two programs may be that compute the same in single precision
CONCEPTS = ("Color", "Animals")


class Server:
    """A ComfyUI on the CPU whose models, nodes and outputs are in `folder`."""

    def __init__(self, folder, *more_nodes):
        self.folder = folder
        (folder / "custom_nodes").mkdir(parents=True)
        (folder / "custom_nodes" / "headwise").symlink_to(REPOSITORY / "integrations" / "comfyui")
        for name in more_nodes:
            (folder / "custom_nodes" / name).symlink_to(REPOSITORY / "tests" / name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder / "log.txt"
        options = ["--cpu", "--force-fp32", "--disable-api-nodes", "--base-directory", folder]
        options += ["--port", port, "--database-url", f"sqlite:///{folder}/comfyui.db"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [PYTHON, "main.py", *map(str, options)],
                cwd=CHECKOUT,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait(self._answers)

    def stop(self):
        """End the server, and remove what it held: checkpoints are large."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)

    def nodes(self):
        """What the server says of every node, by name."""
        return self._get("/object_info")

    def run(self, graph):
        """Run a graph in the API's format; returns what its output nodes said, by their names."""
        queued = self._get("/prompt", {"prompt": graph})["prompt_id"]
        wait(lambda: queued in self._get(f"/history/{queued}"))
        done = self._get(f"/history/{queued}")[queued]
        assert done["status"]["status_str"] == "success", json.dumps(done["status"]["messages"], indent=1)
        return done["outputs"]

    def latents(self, graph, node="save"):
        """The latents that a graph's SaveLatent wrote."""
        (file,) = self.run(graph)[node]["latents"]
        return load_file(self.folder / "output" / file["subfolder"] / file["filename"])["latent_tensor"]

    def _answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self._get("/system_stats"))
        except urllib.error.URLError:
            return False

    def _get(self, path, sent=None):
        data = None if sent is None else json.dumps(sent).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data, headers)) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


def node(kind, **inputs):
    """A node of a graph; a link is the name of a node, or a name and the number of its output."""
    links = {name: [value, 0] if isinstance(value, Link) else value for name, value in inputs.items()}
    return {"class_type": kind, "inputs": links}


class Link(str):
    """The name of a node whose first output is linked."""


def save_relevance(server, head_map, name):
    """Random votes on the heads of a model, in a file that the server finds."""
    votes = np.random.default_rng(0).integers(1, 50, (len(CONCEPTS), head_map.all_heads))
    relevance = Relevance.from_votes(votes, CONCEPTS, head_map)
    folder = server.folder / "models" / "headwise"
    folder.mkdir(parents=True, exist_ok=True)
    relevance.save(folder / name)
    return relevance


def denoised(noise, epsilon):
    """What one step of Euler's makes of noise: x − σ ε(x), at the largest σ of Stable Diffusion 1, XL."""
    alphas = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    sigma = ((1 - alphas[-1]) / alphas[-1]).sqrt()
    return noise * (1 + sigma**2).sqrt() - sigma * epsilon


def apart(a, b):
    """How far a is from b, as a share of b."""
    return ((a - b).norm() / b.norm()).item()
