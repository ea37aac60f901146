"""The cost of counting votes: one denoiser call, stock, with the probe, and with full attention maps.

    python benchmarks/looking.py [--json] [--write] [--calls 5] [--model sd14|sdxl] [--latents 64] [--batch 1]
                                 [--device cpu|cuda] [--dtype float32|bfloat16] [--compile]

The denoiser has the published configuration and random weights, 64×64 latents (SDXL 128×128), one image
with guidance (two rows) and the paper's 34 × 10 concept words. The methods take turns within one run, so that
a busy machine affects all of them equally; the numbers are medians of wall time, with the lowest and highest,
and medians of the ratios within each turn.

"Naive" is the original implementation: no fused kernel, the attention matrix of every layer materialised, and
the keys of the sampled concept words recomputed at every layer and call.

The floor is given as well: the multiplications and additions of the denoiser, those that the probe adds, the
bytes of the weights, and the least time that this device needs for them.
"""

import argparse
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from headwise.measuring.concepts import ConceptSet, WordEmbeddings
from headwise.measuring.estimators import LEAN, PAPER
from headwise.measuring.official import configuration
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.word_samples import sample_words
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap

PROMPT_TOKENS = 77


class Pipeline:
    """The part of a pipeline that is timed: calling a denoiser with guidance."""

    do_classifier_free_guidance = True

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    @torch.no_grad()
    def __call__(self, latents: Tensor, text: Tensor) -> Tensor:
        """One denoising call."""
        rows, added = len(latents), None
        if self.unet.config.addition_embed_type:  # SDXL's
            added = {"text_embeds": text.new_zeros(rows, 1280), "time_ids": text.new_zeros(rows, 6)}
        inputs = {"encoder_hidden_states": text, "added_cond_kwargs": added, "return_dict": False}
        return self.unet(latents, 500, **inputs)[0]


class FullMaps:
    """The naive method: explicit maps of prompt and concept words, with keys of the words recomputed."""

    def __init__(self, layer: int, words: WordEmbeddings, samples: Any, votes: list[Tensor]) -> None:
        self.layer, self.words, self.samples, self.votes = layer, words, samples, votes
        self.stock = AttnProcessor()

    def __call__(self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor, **options: Any) -> Tensor:
        """Attend without the fused kernel, then vote."""
        sampled = [words[i] for words, i in zip(self.words.words, self.samples[self.layer], strict=True)]
        tokens = torch.cat([self.words.start, *sampled])[None].to(hidden)
        conditional = hidden[len(hidden) // 2 :]
        query = attn.head_to_batch_dim(attn.to_q(conditional))
        key = attn.to_k(tokens).expand(len(conditional), -1, -1)
        maps = attn.get_attention_scores(query, attn.head_to_batch_dim(key)).mean(1)
        means = [part.mean(1) for part in maps[:, 1:].split([len(word) for word in sampled], dim=1)]
        self.votes.append(torch.stack(means, 1).argmax(1))
        return self.stock(attn, hidden, encoder_hidden_states, **options)


@dataclass(frozen=True)
class Setting:
    """What is timed, and where.

    Args:
        model: "sd14" or "sdxl".
        latents: The side of the latents; 0 for the model's own.
        batch: The number of images, with two rows each.
        device, dtype, compile: The device and type of the denoiser, and whether it is compiled.
    """

    model: str = "sd14"
    latents: int = 0
    batch: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False

    @classmethod
    def read(cls, options: argparse.Namespace) -> "Setting":
        """The setting from the options that `add_to` added."""
        return cls(**{name: getattr(options, name) for name in cls.__dataclass_fields__})

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of every benchmark of one denoiser call."""
        add_output_to(parser)
        parser.add_argument("--model", choices=("sd14", "sdxl"), default="sd14", help="whose configuration")
        parser.add_argument(
            "--latents", type=int, default=0, help="side of the latents; 0 for the model's own"
        )
        parser.add_argument("--batch", type=int, default=1, help="images, with two rows each")
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
        parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
        parser.add_argument("--compile", action="store_true", help="compile the denoiser")

    def denoiser(self) -> UNet2DConditionModel:
        """A denoiser with random weights, which a seed makes the same for every method."""
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**configuration(self.model)).eval()
        return unet.to(self.device, getattr(torch, self.dtype))

    def pipeline(self) -> Pipeline:
        """The denoiser to call, compiled if `compile` is set."""
        unet = self.denoiser()
        return Pipeline(torch.compile(unet) if self.compile else unet)

    def inputs(self, rows: int) -> tuple[Tensor, Tensor]:
        """Latents and text for a number of rows."""
        config, side = configuration(self.model), self.latents or configuration(self.model)["sample_size"]
        sizes = (rows, 4, side, side), (rows, PROMPT_TOKENS, config["cross_attention_dim"])
        latents, text = (torch.randn(size).to(self.device, getattr(torch, self.dtype)) for size in sizes)
        return latents, text

    def as_json(self) -> dict[str, Any]:
        """The setting as the results record it."""
        cuda = self.device.startswith("cuda")
        return asdict(self) | ({"gpu": torch.cuda.get_device_name(self.device)} if cuda else {})


def timed(call: Callable[[], None], device: str = "cpu") -> float:
    """Seconds of wall time until the device has finished a call."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def embeddings(concepts: ConceptSet, width: int) -> WordEmbeddings:
    """Random embeddings: a word of n parts gets n tokens, about as many as from CLIP's tokenizer."""
    words = (
        tuple(torch.randn(len(word.split()), width) for word in concepts.words(name)) for name in concepts
    )
    return WordEmbeddings(torch.randn(1, width), tuple(words))


def ways(setting: Setting) -> dict[str, Callable[[], None]]:
    """The four calls to time."""
    pipe, concepts = setting.pipeline(), ConceptSet.load("paper34")
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    latents, text = setting.inputs(2 * setting.batch)
    words, head_map = embeddings(concepts, text.shape[-1]), HeadMap.of(unet)
    stock = dict(unet.attn_processors)
    samples = sample_words(0, 0, 1, len(head_map), concepts)[0]
    naive: dict[str, Any] = {name: AttnProcessor() for name in stock}
    for layer, at in enumerate(head_map):
        naive[f"{at.address}.processor"] = FullMaps(layer, words, samples, [])
    eager = Pipeline(unet)

    def probed(samples_per_call: int) -> Callable[[], None]:
        probe = ConceptProbe(pipe, concepts, embeddings=words, samples_per_call=samples_per_call)

        def call() -> None:
            probe.begin(range(setting.batch))
            with hooked(pipe, probe):
                pipe(latents, text)
            probe.take()

        return call

    def full_maps() -> None:
        unet.set_attn_processor(dict(naive))
        eager(latents, text)
        unet.set_attn_processor(dict(stock))

    return {
        "stock": lambda: pipe(latents, text),
        "probe": probed(PAPER.samples_per_call),
        "lean": probed(LEAN.samples_per_call),
        "naive": full_maps,
    }


def operations(call: Callable[[], None]) -> int:
    """The multiplications and additions of matrices and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def compare(calls: int, setting: Setting) -> dict[str, Any]:
    """Time all methods in `calls` turns, after one turn to warm up."""
    run = ways(setting)
    turns = [{name: timed(call, setting.device) for name, call in run.items()} for _ in range(calls + 1)][1:]
    ratios = {
        "probe_over_stock": ("probe", "stock"),
        "lean_over_stock": ("lean", "stock"),
        "naive_over_probe": ("naive", "probe"),
    }
    results = summary(turns, ratios) | setting.as_json() | {"calls": calls}
    if not setting.compile:  # operations of compiled code are not counted
        stock, probe = operations(run["stock"]), operations(run["probe"])
        results |= {"stock_gigaops": stock / 1e9, "probe_adds_gigaops": (probe - stock) / 1e9}
        results |= floor(setting, stock)
    return results


def floor(setting: Setting, operations: int) -> dict[str, float]:
    """The least time in which this device can do this many operations, and read all weights once.

    The rates are those of a product of two large matrices and of a copy, each the best of five.
    """
    kind: dict[str, Any] = {"device": setting.device, "dtype": getattr(torch, setting.dtype)}
    side = 4096 if setting.device.startswith("cuda") else 2048
    a, b = torch.randn(side, side).to(**kind), torch.randn(side, side).to(**kind)
    much = torch.zeros(2**26, dtype=torch.float32, device=setting.device)
    product = min(timed(lambda: a @ b, setting.device) for _ in range(5))
    copy = min(timed(much.clone, setting.device) for _ in range(5))
    with torch.device("meta"):
        count = sum(p.numel() for p in UNet2DConditionModel(**configuration(setting.model)).parameters())
    weights = count * kind["dtype"].itemsize
    operations_per_s, bytes_per_s = 2 * side**3 / product, 2 * much.numel() * 4 / copy
    return {
        "peak_gigaops_per_s": operations_per_s / 1e9,
        "peak_gigabytes_per_s": bytes_per_s / 1e9,
        "weights_mb": weights / 2**20,
        "floor_s": max(operations / operations_per_s, weights / bytes_per_s),
    }


def add_output_to(parser: argparse.ArgumentParser) -> None:
    """Add the output options of every benchmark."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="save the JSON in results/, with the date")


def tell(results: dict[str, Any], options: argparse.Namespace, name: str = "") -> bool:
    """Write the results as the options say; returns whether to print a table as well.

    Args:
        results: The numbers.
        options: The options that `add_output_to` added.
        name: The name of the file in results/, without its date; "" for that of the script.
    """
    results = {"date": datetime.now(UTC).date().isoformat(), "cpu": _cpu()} | results
    text = json.dumps(results, indent=1) + "\n"
    text = re.sub(r"\[\s+[^][{}]*?\]", lambda row: re.sub(r"\n *", " ", row[0]), text)  # one line per row
    if options.write:
        name = f"{name or Path(sys.argv[0]).stem}-{results['date']}.json"
        (Path(__file__).parent / "results" / name).write_text(text)
    if options.json:
        sys.stdout.write(text)
    return not options.json


def _cpu() -> str:
    """The processor's name from Linux, or else from Python."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def summary(turns: list[dict[str, float]], ratios: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Median, lowest and highest seconds of each method, medians of ratios within turns, and the machine."""
    results: dict[str, Any] = {}
    for name in turns[0]:
        seconds = [turn[name] for turn in turns]
        results[f"{name}_s"] = statistics.median(seconds)
        results[f"{name}_spread_s"] = [min(seconds), max(seconds)]
    for name, (over, under) in ratios.items():
        results[name] = statistics.median(turn[over] / turn[under] for turn in turns)
    machine = {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}
    return results | machine


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    Setting.add_to(parser)
    parser.add_argument("--calls", type=int, default=5, help="turns to time")
    options = parser.parse_args()
    results = compare(options.calls, Setting.read(options))
    if not tell(results, options):
        return
    for name in ("stock", "probe", "lean", "naive"):
        low, high = results[f"{name}_spread_s"]
        sys.stdout.write(f"{name:6} {results[f'{name}_s']:8.3f} s per call   ({low:.3f} to {high:.3f})\n")
    if "floor_s" in results:
        sys.stdout.write(f"floor  {results['floor_s']:8.3f} s per call\n")
    ratios = (
        f"probe / stock {results['probe_over_stock']:.3f}, lean / stock {results['lean_over_stock']:.3f}, "
    )
    ratios += f"naive / probe {results['naive_over_probe']:.3f}\n"
    sys.stdout.write(ratios)


if __name__ == "__main__":
    main()
