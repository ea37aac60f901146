"""What looking costs: one call of the SD v1.4 denoiser, stock, with the probe, and with full attention maps.

    python benchmarks/looking.py [--json] [--calls 5] [--latents 64]

The denoiser has the published configuration and random weights, 64×64 latents, one picture with guidance (two
rows) and the paper's 34 × 10 concept words. The three take turns within one run, so that a busy machine
disturbs them alike; the numbers are medians of wall time, with the lowest and highest beside them, and
medians of the ratios within each turn.

"Naive" is how it was first done: no fused kernel, the attention matrix of every layer materialised, and the
keys of the drawn concept words projected anew at every layer and call.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from headwise.attention import hooked
from headwise.concepts import ConceptSet, WordEmbeddings
from headwise.heads import HeadMap
from headwise.probe import ConceptProbe, draw_words

WIDTH, PROMPT_TOKENS = 768, 77


class Pipeline:
    """A denoiser that is called with guidance, and nothing else of a pipeline."""

    do_classifier_free_guidance = True

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    @torch.no_grad()
    def __call__(self, latents: Tensor, text: Tensor) -> Tensor:
        """One denoising call."""
        return self.unet(latents, 500, encoder_hidden_states=text, return_dict=False)[0]


class FullMaps:
    """The naive way: explicit maps of prompt and concept words, keys of the words recomputed."""

    def __init__(self, layer: int, words: WordEmbeddings, draws: Any, votes: list[Tensor]) -> None:
        self.layer, self.words, self.draws, self.votes = layer, words, draws, votes
        self.stock = AttnProcessor()

    def __call__(self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor, **options: Any) -> Tensor:
        """Attend without the fused kernel, then vote."""
        drawn = [words[i] for words, i in zip(self.words.words, self.draws[self.layer], strict=True)]
        tokens = torch.cat([self.words.start[None], *drawn])[None]
        query = attn.head_to_batch_dim(attn.to_q(hidden[1:]))
        maps = attn.get_attention_scores(query, attn.head_to_batch_dim(attn.to_k(tokens))).mean(1)
        means = [part.mean(1) for part in maps[:, 1:].split([len(word) for word in drawn], dim=1)]
        self.votes.append(torch.stack(means, 1).argmax(1))
        return self.stock(attn, hidden, encoder_hidden_states, **options)


def sd14() -> UNet2DConditionModel:
    """The published configuration of the SD v1.4 denoiser; its other fields are diffusers' defaults."""
    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=WIDTH, attention_head_dim=8).eval()


def embeddings(concepts: ConceptSet) -> WordEmbeddings:
    """Random ones: a word of n parts gets n tokens, which is about what CLIP's tokenizer makes of it."""
    words = (
        tuple(torch.randn(len(word.split()), WIDTH) for word in concepts.words(name)) for name in concepts
    )
    return WordEmbeddings(torch.randn(WIDTH), tuple(words))


def ways(unet: UNet2DConditionModel, side: int) -> dict[str, Callable[[], None]]:
    """The three calls to be timed."""
    pipe, concepts = Pipeline(unet), ConceptSet.load("paper34")
    latents, text = torch.randn(2, 4, side, side), torch.randn(2, PROMPT_TOKENS, WIDTH)
    words, head_map = embeddings(concepts), HeadMap.of(unet)
    probe, stock = ConceptProbe(pipe, concepts, embeddings=words), dict(unet.attn_processors)
    draws = draw_words(0, 0, 1, len(head_map), concepts)[0]
    naive: dict[str, Any] = {name: AttnProcessor() for name in stock}
    for layer, at in enumerate(head_map):
        naive[f"{at.address}.processor"] = FullMaps(layer, words, draws, [])

    def probed() -> None:
        probe.begin([0])
        with hooked(pipe, probe):
            pipe(latents, text)
        probe.take()

    def full_maps() -> None:
        unet.set_attn_processor(dict(naive))
        pipe(latents, text)
        unet.set_attn_processor(dict(stock))

    return {"stock": lambda: pipe(latents, text), "probe": probed, "naive": full_maps}


def timed(call: Callable[[], None]) -> float:
    """Seconds of wall time."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(calls: int, side: int) -> dict[str, Any]:
    """Take turns, `calls` times, after one turn to warm up."""
    run = ways(sd14(), side)
    turns = [{name: timed(call) for name, call in run.items()} for _ in range(calls + 1)][1:]
    ratios = {"probe_over_stock": ("probe", "stock"), "naive_over_probe": ("naive", "probe")}
    return summary(turns, ratios) | {"calls": calls, "latents": side}


def summary(turns: list[dict[str, float]], ratios: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Median, lowest and highest seconds of each way, medians of ratios within each turn, and the machine."""
    found: dict[str, Any] = {}
    for name in turns[0]:
        seconds = [turn[name] for turn in turns]
        found[f"{name}_s"] = statistics.median(seconds)
        found[f"{name}_spread_s"] = [min(seconds), max(seconds)]
    for name, (over, under) in ratios.items():
        found[name] = statistics.median(turn[over] / turn[under] for turn in turns)
    machine = {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}
    return found | machine


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--calls", type=int, default=5, help="turns to time")
    parser.add_argument("--latents", type=int, default=64, help="side of the latents")
    options = parser.parse_args()
    found = compare(options.calls, options.latents)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    for name in ("stock", "probe", "naive"):
        low, high = found[f"{name}_spread_s"]
        sys.stdout.write(f"{name:6} {found[f'{name}_s']:8.3f} s a call   ({low:.3f} to {high:.3f})\n")
    ratios = f"probe / stock {found['probe_over_stock']:.3f}, naive / probe {found['naive_over_probe']:.3f}\n"
    sys.stdout.write(ratios)


if __name__ == "__main__":
    main()
