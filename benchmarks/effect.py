"""The cost of effect: one denoiser call, stock, with the probe, and with activations recomputed.

    python benchmarks/effect.py [--json] [--write] [--calls 5] [the options of looking.py]
    python benchmarks/effect.py --explain [--steps 50] [--calls 3] [--json] [--write]

The denoiser is that of looking.py: published configuration, random weights, one image with guidance. A word
of three tokens is measured at one point, which takes two more rows and one with a gradient. Also reported are
the megabytes of activations kept for the gradient: with frozen weights, as in the probe; with weights that
require gradients; and with activations recomputed. On an accelerator, the peak memory is reported as well.

With --explain the built-in model generates an image of 50 steps, plain and explained ("a red car in the
snow", all words), and one call is measured by muting every head in turn and by one gradient. All methods take
turns within one run; numbers are medians of wall time, with the lowest and highest, and medians of the ratios
within each turn.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool
from looking import Setting, summary, tell, timed
from torch import Tensor

from headwise.measuring.effect import EffectProbe, ScaledWords, output_of
from headwise.measuring.explain import explain
from headwise.model import modes
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.hooks import Hook
from headwise.model.pipelines import load_pipeline, quiet
from headwise.model.sites import DenoiserCall

PROMPT = "a red car in the snow"


class ThreeTokens(EffectProbe):
    """The probe for a denoiser without tokenizer: the word is tokens 4 to 6."""

    def _tokens(self, call: DenoiserCall) -> Bool[Tensor, "images words tokens"]:
        return ((torch.arange(call.tokens) >= 4) & (torch.arange(call.tokens) < 7)).expand(
            call.pictures, 1, -1
        )


class Kept:
    """Counts the bytes of the activations that a backward pass keeps, each storage once."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Record a kept tensor."""
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def megabytes(self) -> float:
        """The size of all kept tensors."""
        return sum(self.sizes.values()) / 2**20


def kept(call: Callable[[], None]) -> float:
    """The megabytes kept during a call."""
    count = Kept()
    with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda tensor: tensor):
        call()
    return count.megabytes


def compare(calls: int, setting: Setting) -> dict[str, Any]:
    """Time one call of the denoiser by all methods in `calls` turns, after one turn to warm up."""
    pipe = setting.pipeline()
    latents, text = setting.inputs(2 * setting.batch)

    def probed(checkpointing: bool) -> Callable[[], None]:
        def call() -> None:
            probe = ThreeTokens("", checkpointing=checkpointing)
            with hooked(pipe, probe):
                pipe(latents, text)
            probe.take()

        return call

    run = {"stock": lambda: pipe(latents, text), "effect": probed(False), "again": probed(True)}
    turns = [{name: timed(call, setting.device) for name, call in run.items()} for _ in range(calls + 1)][1:]
    ratios = {"effect_over_stock": ("effect", "stock"), "again_over_stock": ("again", "stock")}
    results = summary(turns, ratios) | setting.as_json() | {"calls": calls}
    frozen, modes.differentiated = modes.differentiated, lambda *_: nullcontext()
    results["kept_with_weights_mb"] = kept(run["effect"])
    modes.differentiated = frozen
    results |= {"kept_mb": kept(run["effect"]), "kept_again_mb": kept(run["again"])}
    if setting.device.startswith("cuda"):
        for name, call in run.items():
            torch.cuda.reset_peak_memory_stats()
            call()
            results[f"{name}_peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
    return results


class OneByOne(Hook):
    """The naive method: the change of the output when the word is muted in each head in turn."""

    def finish(self, call: DenoiserCall) -> None:
        """Run the denoiser once for each head."""
        if not call.prompted:
            return
        heads = call.head_map.all_heads
        of_word = torch.zeros(1, call.tokens, dtype=torch.bool)
        of_word[0, list(call.positions(0, "red"))] = True

        def output(factors: Tensor) -> Tensor:
            return output_of(call.rerun(ScaledWords(of_word, factors)))

        with torch.no_grad():
            full, mutings = output(torch.ones(1, heads)), 1 - torch.eye(heads)
            everywhere = full - output(torch.zeros(1, heads))
            self.shares = [float(((full - output(each[None])) * everywhere).sum()) for each in mutings]


def explaining(calls: int, steps: int) -> dict[str, Any]:
    """Time images of the built-in model, plain and explained; and one call by gradient and head by head."""
    pipe = load_pipeline("emoji")
    options = {"num_inference_steps": 1, "output_type": "latent"}

    def hooks(*each: Hook) -> None:
        with hooked(pipe, *each), quiet(pipe):
            generate_keys(pipe, [PROMPT], [(0, 0)], **options)

    def plain() -> None:
        with quiet(pipe):
            generate_keys(pipe, [PROMPT], [(0, 0)], num_inference_steps=steps)

    run = {
        "plain": plain,
        "explained": lambda: explain(pipe, PROMPT, num_inference_steps=steps),
        "one_call": lambda: hooks(EffectProbe("red")),
        "one_call_head_by_head": lambda: hooks(OneByOne()),
    }
    turns = [{name: timed(call) for name, call in run.items()} for _ in range(calls + 1)][1:]
    ratios = {
        "explained_over_plain": ("explained", "plain"),
        "head_by_head_over_gradient": ("one_call_head_by_head", "one_call"),
    }
    return summary(turns, ratios) | {"calls": calls, "steps": steps, "prompt": PROMPT, "model": "emoji"}


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    Setting.add_to(parser)
    parser.add_argument("--calls", type=int, default=5, help="turns to time")
    parser.add_argument("--explain", action="store_true", help="time explained images instead of a call")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps of explained images")
    options = parser.parse_args()
    if options.explain:
        results = explaining(options.calls, options.steps)
    else:
        results = compare(options.calls, Setting.read(options))
    if tell(results, options, "explaining" if options.explain else ""):
        for name, value in results.items():
            sys.stdout.write(f"{name:28} {value}\n")


if __name__ == "__main__":
    main()
