"""The cost of editing and exciting on the SD v1.4 denoiser, compared with stock calls and the naive method.

    python benchmarks/editing.py [--json] [--calls 5] [the options of looking.py]

edit    one denoising call of a source and a target (four rows, with guidance): stock; with prompt-to-prompt
        by relevance; and naively, computing every attention map and exchanging its columns
excite  one loss of Attend-and-Excite by relevance and its gradient: ours; and naively, computing and keeping
        every map of every layer; and the floor of both, a stock call of one row and its gradient

Published configuration, random weights, float32. The methods take turns within one run; seconds are medians,
with the lowest and highest, and ratios are medians of the ratios within each turn. Peak memory is measured in
a separate process for each method, minus what it held once the denoiser was loaded (Linux only).
"""

import argparse
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from looking import PROMPT_TOKENS, Pipeline, Setting, summary, tell, timed
from torch import Tensor

from headwise.editing.attend_and_excite import Excite
from headwise.editing.excitement import excitement_loss
from headwise.editing.prompt_to_prompt import PromptToPrompt
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.modes import differentiated
from headwise.model.sites import DenoiserCall
from headwise.model.tokens import TextSegment

PROMPTS = ("a red car in the rain", "a blue car in the rain")
RATIOS = {
    "edit_over_stock": ("edit", "stock"),
    "naive_over_edit": ("naive", "edit"),
    "excite_over_naive": ("excite", "excite_naive"),
    "excite_over_gradient": ("excite", "gradient"),
}


class Words:
    """A tokenizer with one token per word, with only what the two methods need."""

    def __init__(self, tokens: int) -> None:
        self.model_max_length = tokens

    def __call__(self, prompt: str, return_offsets_mapping: bool = False, **options: Any) -> Any:
        """The tokens of start, words and end, with the characters of each."""
        offsets, at = [(0, 0)], 0
        for word in prompt.split():
            at = prompt.index(word, at)
            offsets.append((at, at + len(word)))
            at += len(word)
        encoding = {"input_ids": list(range(len(offsets) + 1)), "offset_mapping": [*offsets, (0, 0)]}
        return types.SimpleNamespace(**encoding) if not return_offsets_mapping else encoding


class WithPrompts(Hook):
    """A hook around another that adds what a call of a bare denoiser lacks: prompts and steps."""

    def __init__(self, hook: Hook, prompts: tuple[str, ...], tokens: int = PROMPT_TOKENS) -> None:
        self.hook, self.prompts, self.kinds = hook, prompts, hook.kinds
        self.segments = (TextSegment(Words(tokens)),)

    def prepare(self, call: DenoiserCall) -> None:
        """Prepare the hook as in the first of 50 calls."""
        call.prompts, call.segments, call.step, call.steps = self.prompts, self.segments, 0, 50
        self.hook.prepare(call)

    def __call__(self, *attention: Any) -> Tensor:
        """Call the hook."""
        return self.hook(*attention)


class Exchanged(AttnProcessor):
    """The naive edit: computes every map, and gives the target the source's columns and self-attention."""

    def __init__(self, scale: Tensor | None) -> None:
        super().__init__()
        self.scale = scale  # factors on the target's new word, by head; None at self-attention

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Attend; rows are two without the prompt, the source and the target."""
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(p) for p in (attn.to_q(hidden), attn.to_k(text), attn.to_v(text))
        )
        maps = attn.get_attention_scores(query, key).unflatten(0, (-1, attn.heads))
        if self.scale is None:
            maps[3] = maps[2] if hidden.shape[1] <= 256 else maps[3]
        else:
            new_word = maps[3, ..., 2] * self.scale[:, None]
            maps[3] = maps[2]
            maps[3, ..., 2] = new_word
        return attn.to_out[0](attn.batch_to_head_dim(maps.flatten(0, 1) @ value))


class Kept(AttnProcessor):
    """The naive excitement: computes every map, and keeps those of the text."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Attend without the fused kernel."""
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(p) for p in (attn.to_q(hidden), attn.to_k(text), attn.to_v(text))
        )
        maps = attn.get_attention_scores(query, key)
        if encoder_hidden_states is not None:
            self.maps.append(maps)
        return attn.to_out[0](attn.batch_to_head_dim(maps @ value))


def ways(setting: Setting) -> dict[str, Callable[[], None]]:
    """The calls to time."""
    unet = setting.denoiser()
    head_map = HeadMap.of(unet)
    votes = np.random.default_rng(0).integers(1, 100, (1, head_map.all_heads))
    relevance = Relevance.from_votes(votes, ("Color",), head_map)
    inputs = setting.inputs(4)
    return _edits(unet, relevance, *inputs) | _excitements(unet, relevance, *inputs)


def _edits(unet: Any, relevance: Relevance, latents: Tensor, text: Tensor) -> dict[str, Callable[[], None]]:
    """A call of a source and a target: stock, edited, and edited naively."""
    pipe, head_map, stock = Pipeline(unet), relevance.head_map, dict(unet.attn_processors)
    p2p = WithPrompts(PromptToPrompt(relevance=relevance, concepts={"blue": "Color"}), PROMPTS)
    factors = torch.tensor(relevance["Color"]).float()
    exchanged: dict[str, Any] = {name: Exchanged(None) for name in stock}
    for layer, (start, stop) in zip(head_map, head_map.slices, strict=True):
        exchanged[f"{layer.address}.processor"] = Exchanged(factors[start:stop])

    def edited() -> None:
        with hooked(pipe, p2p):
            pipe(latents, text)

    def exchanging() -> None:
        unet.set_attn_processor(dict(exchanged))
        pipe(latents, text)
        unet.set_attn_processor(dict(stock))

    return {"stock": lambda: pipe(latents, text), "edit": edited, "naive": exchanging}


def _excitements(
    unet: Any, relevance: Relevance, latents: Tensor, text: Tensor
) -> dict[str, Callable[[], None]]:
    """A gradient with respect to the latents: of the loss, of the naive loss, and of the output itself."""
    head_map, stock, side = relevance.head_map, dict(unet.attn_processors), latents.shape[-1]
    factors = torch.tensor(relevance["Color"]).float()
    exciting = Excite([["car", "rain"]], relevance=relevance, concepts="Color")
    prompted = WithPrompts(exciting, PROMPTS[:1])

    def excited() -> None:
        with hooked(unet, prompted), differentiated(unet):
            prompted.prepare(_call(unet, head_map, text[2:3], side))
            moving = latents[2:3].clone().requires_grad_(True)
            torch.autograd.grad(exciting.loss(moving, torch.tensor(500)).sum(), moving)

    def keeping() -> None:
        maps: list[Tensor] = []
        unet.set_attn_processor({name: Kept(maps) for name in stock})
        moving = latents[2:3].clone().requires_grad_(True)
        unet(moving, 500, encoder_hidden_states=text[2:3])
        total: Any = 0
        for (start, stop), layer_maps in zip(head_map.slices, maps, strict=True):
            grid = int(layer_maps.shape[1] ** 0.5)
            each = _coarsened(layer_maps.permute(0, 2, 1).unflatten(-1, (grid, grid)))
            total = total + (each * factors[start:stop, None, None, None]).sum(0)
        loss = excitement_loss(
            (total / head_map.all_heads).expand(1, 2, -1, -1, -1), [((3,), (6,))], [range(1, 7)]
        )
        torch.autograd.grad(loss.sum(), moving)
        unet.set_attn_processor(dict(stock))

    def gradient() -> None:
        with differentiated(unet):
            moving = latents[2:3].clone().requires_grad_(True)
            output = unet(moving, 500, encoder_hidden_states=text[2:3]).sample
            torch.autograd.grad(output.sum(), moving)

    return {"excite": excited, "excite_naive": keeping, "gradient": gradient}


def _call(unet: Any, head_map: HeadMap, text: Tensor, side: int) -> DenoiserCall:
    def rerun(hook: Any, latents: Tensor, timestep: Tensor) -> Any:
        return unet(latents, timestep, encoder_hidden_states=text)

    return DenoiserCall(grid=(side, side), tokens=PROMPT_TOKENS, head_map=head_map, rerun=rerun).of_rows(1)


def _coarsened(maps: Tensor) -> Tensor:
    """Maps of every head, smoothed by convolution and resized to 8×8."""
    ratio = maps.shape[-1] // 8
    if ratio > 1:
        x = torch.arange(-ratio, ratio + 1.0)
        kernel = torch.softmax(-(x**2) / (2 * (ratio / 2) ** 2), 0)
        padded = F.pad(maps.flatten(0, 1)[:, None], (ratio,) * 4, mode="replicate")
        smooth = F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])
        maps = F.interpolate(smooth, size=(8, 8), mode="bilinear")[:, 0].unflatten(0, maps.shape[:2])
    return maps


def compare(calls: int, setting: Setting) -> dict[str, Any]:
    """Time all methods in `calls` turns, after one turn to warm up; then measure their peak memory."""
    run = ways(setting)
    turns = [{name: timed(call, setting.device) for name, call in run.items()} for _ in range(calls + 1)][1:]
    results = summary(turns, RATIOS) | setting.as_json() | {"calls": calls}
    return results | {f"{name}_peak_mb": round(_peak(name, setting)) for name in run}


def _peak(name: str, setting: Setting) -> float:
    options = ["--peak", name, "--latents", str(setting.latents), "--model", setting.model]
    command = [sys.executable, __file__, *options, "--device", setting.device, "--dtype", setting.dtype]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _forget_peak(device: str) -> float:
    """Reset the peak; returns the MB held now."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _peak_since(device: str) -> float:
    """The peak in MB since it was reset."""
    return torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else _memory("VmHWM")


def _memory(field: str) -> float:
    """A field of this process's memory in MB, as Linux reports it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    Setting.add_to(parser)
    parser.add_argument("--calls", type=int, default=5, help="turns to time")
    parser.add_argument("--peak", help="run one method once and print its peak memory in MB")
    options = parser.parse_args()
    if options.peak:
        setting = Setting.read(options)
        run, device = ways(setting), setting.device
        loaded = _forget_peak(device)
        run[options.peak]()
        print(_peak_since(device) - loaded)
        return
    results = compare(options.calls, Setting.read(options))
    if not tell(results, options):
        return
    for name in ("stock", "edit", "naive", "excite", "excite_naive", "gradient"):
        low, high = results[f"{name}_spread_s"]
        peak = results[f"{name}_peak_mb"]
        sys.stdout.write(
            f"{name:13} {results[f'{name}_s']:8.3f} s   ({low:.3f} to {high:.3f})   {peak:6} MB\n"
        )
    for name in RATIOS:
        sys.stdout.write(f"{name:20} {results[name]:.3f}\n")


if __name__ == "__main__":
    main()
