"""Writes published.json: what diffusers' own Attend-and-Excite computes on a tiny pipeline, in float64.

    python tests/golden/published.py

The pipeline's parameters are drawn here, so that the values depend on no library's way of initialising a
model. The published code makes its Gaussian in single precision; here it is made in double precision too.
"""

import json
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import SD1, ddim, pndm, tiny_sd

FILE = Path(__file__).with_suffix(".json")
SCHEDULERS = {"ddim": ddim, "pndm": pndm, "euler": lambda: EulerDiscreteScheduler(steps_offset=1)}
PROMPT, WORDS = "a red dog in a vase", ["dog", "vase"]  # each of one token
CASES = {
    "default settings": {"scheduler": "ddim", "steps": 22},
    "few steps": {"scheduler": "pndm", "steps": 3},
    "latents are scaled": {"scheduler": "euler", "steps": 3},
    "wide": {"scheduler": "ddim", "steps": 2, "size": (16, 24)},
    "a threshold is reached": {"scheduler": "ddim", "steps": 2, "thresholds": {0: 0.55}, "step_size": 2},
    "a threshold after the moves": {
        "scheduler": "ddim", "steps": 4, "moves": 1, "thresholds": {2: 0.65}, "step_size": 5
    },
}  # fmt: skip


def pipeline(scheduler):
    """A tiny pipeline in float64 whose parameters are drawn in the order of their names."""
    pipe = tiny_sd(SD1, dtype=torch.float64, scheduler=SCHEDULERS[scheduler]())
    random = np.random.Generator(np.random.Philox(16))
    with torch.no_grad():
        for part in (pipe.text_encoder, pipe.unet):
            for name, parameter in sorted(part.named_parameters()):
                if parameter.ndim == 1:
                    parameter.fill_(name.endswith("weight"))
                    continue
                gain = 2 if name.endswith(("to_q.weight", "to_k.weight")) else 1
                drawn = random.standard_normal(tuple(parameter.shape)) * gain
                parameter.copy_(torch.from_numpy(drawn / parameter[0].numel() ** 0.5))
    return pipe


def noise(size):
    """The latents that every case begins from."""
    shape = (1, 4, size[0] // 2, size[1] // 2)
    return torch.from_numpy(np.random.Generator(np.random.Philox(3)).standard_normal(shape))


def published(scheduler, steps, size=(16, 16), moves=25, thresholds=None, step_size=20):
    """The first loss and some of the final latents of diffusers' pipeline."""
    from diffusers import StableDiffusionAttendAndExcitePipeline as Pipeline

    module = sys.modules[Pipeline.__module__]

    class Smoothing(module.GaussianSmoothing):
        def __init__(self):
            with mock.patch.object(torch, "float32", torch.float64):
                super().__init__()

    losses, compute_loss = [], Pipeline._compute_loss

    def computed(*args, **kwargs):
        losses.append(compute_loss(*args, **kwargs))
        return losses[-1]

    parts = pipeline(scheduler).components
    parts.pop("image_encoder", None)
    pipe = Pipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    options = {} if thresholds is None else {"thresholds": thresholds}
    with mock.patch.multiple(Pipeline, _compute_loss=staticmethod(computed)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mock.patch.object(module, "GaussianSmoothing", Smoothing):
            latents = pipe(
                PROMPT,
                token_indices=[3, 6],
                height=size[0],
                width=size[1],
                latents=noise(size),
                num_inference_steps=steps,
                guidance_scale=5.0,
                output_type="latent",
                max_iter_to_alter=moves,
                scale_factor=step_size,
                attn_res=(size[0] // 2, size[1] // 2),
                **options,
            ).images
    return {
        "first loss": losses[0].item(),
        "evaluations": len(losses),
        "latents": latents.flatten()[::16].tolist(),
    }


def main():
    """Write them."""
    FILE.write_text(json.dumps({name: published(**case) for name, case in CASES.items()}, indent=0) + "\n")


if __name__ == "__main__":
    main()
