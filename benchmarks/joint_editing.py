"""The cost of prompt-to-prompt in joint attention, compared with stock calls and the naive method.

    python benchmarks/joint_editing.py [--json] [--write] [--calls 5] [--latents 64] [--text 512]
                                       [--blocks 1 1] [--device cpu|cuda] [--dtype float32|bfloat16]

One call of a transformer with FLUX.1's widths, random weights and the given numbers of double and single
blocks, on a source and a target: stock; with prompt-to-prompt by relevance, exchanging text columns and
layout; and naively, computing every joint map, exchanging its columns and dividing its rows by their sums.
The methods take turns within one run; seconds are medians, with the lowest and highest, and ratios are
medians of the ratios within each turn.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from editing import PROMPTS, WithPrompts
from looking import add_output_to, summary, tell, timed
from torch import Tensor

from headwise.editing.prompt_to_prompt import PromptToPrompt
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, Site

WORD = 2  # the token of "blue" by `Words`


class Pipeline:
    """The part of a pipeline that is timed: calling a transformer."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        self.transformer = transformer

    @torch.no_grad()
    def __call__(self, **inputs: Tensor) -> Tensor:
        """One denoising call."""
        return self.transformer(**inputs, return_dict=False)[0]


class FullMaps(Hook):
    """The naive edit: computes every joint map; the target keeps only its new word's column."""

    kinds = ("joint",)

    def __init__(self, factors: Tensor, head_map: HeadMap) -> None:
        self.factors = [factors[start:stop] for start, stop in head_map.slices]

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; rows are the source and the target."""
        maps = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        word = site.text.start + WORD
        new_word = maps[1, ..., word].clone()
        maps[1] = maps[0]
        maps[1, ..., word] = new_word
        maps[1] /= maps[1].sum(-1, keepdim=True)
        maps[1, ..., word] *= self.factors[site.layer].to(maps)[:, None]
        return maps @ value


def ways(options: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    """The calls to time."""
    torch.manual_seed(0)
    double, single = options.blocks
    transformer = FluxTransformer2DModel(num_layers=double, num_single_layers=single, guidance_embeds=True)
    kind: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    pipe = Pipeline(transformer.eval().to(**kind))
    inputs = _inputs(transformer, options.latents, options.text, kind)
    head_map = HeadMap.of(transformer)
    votes = np.random.default_rng(0).integers(1, 100, (1, head_map.all_heads))
    relevance = Relevance.from_votes(votes, ("Color",), head_map)
    ours = PromptToPrompt(relevance=relevance, concepts={"blue": "Color"})

    def under(hook: Hook) -> Callable[[], Tensor]:
        """A call inside `hooked`."""

        def call() -> Tensor:
            """One call."""
            with hooked(pipe, hook):
                return pipe(**inputs)

        return call

    naive = FullMaps(torch.tensor(relevance["Color"]), head_map)
    return {
        "stock": lambda: pipe(**inputs),
        "edit": under(WithPrompts(ours, PROMPTS, options.text)),
        "naive": under(naive),
    }


def _inputs(transformer: Any, side: int, tokens: int, kind: dict[str, Any]) -> dict[str, Tensor]:
    """Latents of one image in both rows, and the text of each row."""
    config, pixels, rows = transformer.config, (side // 2) ** 2, len(PROMPTS)
    places = torch.zeros(pixels, 3)
    places[:, 1:] = torch.cartesian_prod(torch.arange(side // 2.0), torch.arange(side // 2.0))
    return {
        "hidden_states": torch.randn(1, pixels, config.in_channels).expand(rows, -1, -1).to(**kind),
        "encoder_hidden_states": torch.randn(rows, tokens, config.joint_attention_dim).to(**kind),
        "pooled_projections": torch.randn(rows, config.pooled_projection_dim).to(**kind),
        "timestep": torch.full((rows,), 0.5).to(**kind),
        "guidance": torch.full((rows,), 3.5).to(**kind),
        "img_ids": places.to(**kind),
        "txt_ids": torch.zeros(tokens, 3).to(**kind),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The difference between edit and naive edit, then timing in turns, after one turn to warm up."""
    run = ways(options)
    edited, naive = run["edit"]()[1].double(), run["naive"]()[1].double()
    error = float((edited - naive).abs().max() / naive.abs().max())
    turns = [
        {name: timed(call, options.device) for name, call in run.items()} for _ in range(options.calls + 1)
    ][1:]
    ratios = {"edit_over_stock": ("edit", "stock"), "naive_over_edit": ("naive", "edit")}
    results = summary(turns, ratios) | {"edit_and_naive_differ_by": error}
    return results | {
        name: getattr(options, name) for name in ("latents", "text", "blocks", "device", "dtype", "calls")
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--latents", type=int, default=64, help="side of the latents")
    parser.add_argument("--text", type=int, default=512, help="tokens of the text")
    parser.add_argument("--blocks", nargs=2, type=int, default=[1, 1], help="double and single blocks")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--calls", type=int, default=5, help="turns to time")
    options = parser.parse_args()
    results = compare(options)
    if tell(results, options):
        for name, value in results.items():
            sys.stdout.write(f"{name:26} {value}\n")


if __name__ == "__main__":
    main()
