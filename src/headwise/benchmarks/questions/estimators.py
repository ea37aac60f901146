r"""How few denoiser rows give the relevance of a long run? Estimators at equal cost (estimators.py).

The truth is a long run of the paper's estimator (one word sample per call, 50 steps, guidance) on images that
no other run has. The images of each setting of steps and guidance are then generated once, and heads vote in
all of these ways at the same time:

    1, 2, 4, 8 draws   hard votes with 1 to 8 word samples per call; 1 is the paper's
    soft               the concept's share a[c] / Σ a in place of a vote, summed over 8 samples
    all words          one softmax over the words of all concepts, a[c] the mean over a concept's words
    both halves        8 samples, with the unconditional rows voting as well
    early              8 samples at the first two fifths of the calls, without running the other calls

A block has the votes of every 32nd image, so that groups of blocks are runs with fewer images. Cost is the
number of rows that pass the denoiser: images × calls × 2 with guidance. Reported is the median over concepts
of the rank correlation over heads with the long run: its mean over groups, and the lowest and highest.

The unconditional half is not used as a control variate: that would need the mean of the unconditional votes,
which costs as much to estimate.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwise.benchmarks.results import ESTIMATORS_FILE, Curve, Estimators, estimator_name
from headwise.errors import RunMismatch
from headwise.files import read_arrays, write_arrays, write_whole
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.estimators import LEAN
from headwise.measuring.measure import measure
from headwise.measuring.probe import ConceptProbe, attention_to
from headwise.measuring.prompts import read_prompts
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.measuring.votes import BLOCKS
from headwise.measuring.word_samples import PackedWords
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.pipelines import quiet
from headwise.model.sites import Attend, Site
from headwise.runs.shards import batches

__all__ = ["SETTINGS", "WAYS", "Estimators", "Setting", "benchmark_estimators"]

EARLY = 2 / 5
GROUPS = (1, 2, 4, 8, 16, 32)  # numbers of blocks that make up one run with fewer images


@dataclass(frozen=True)
class Setting:
    """How images are generated, and how many.

    Args:
        num_inference_steps, guidance_scale: Passed to the pipeline.
        pictures: The number of images, a multiple of 32.
    """

    num_inference_steps: int
    guidance_scale: float
    pictures: int

    @property
    def name(self) -> str:
        """The name of the setting in files and figures."""
        guided = f", guidance {self.guidance_scale:g}" if self.guidance_scale > 1 else ", no guidance"
        return f"{self.num_inference_steps} steps{'' if self.guidance_scale == 7.5 else guided}"

    @property
    def early(self) -> int:
        """The number of calls in the first two fifths."""
        return int(EARLY * self.num_inference_steps)

    def rows(self, way: str) -> int:
        """The denoiser rows per image when heads vote in one of `WAYS`."""
        calls = self.early if way == "early" else self.num_inference_steps
        return calls * (2 if self.guidance_scale > 1 else 1)


SETTINGS = (
    Setting(50, 7.5, 128),
    Setting(20, 7.5, 192),
    Setting(10, 7.5, 256),
    Setting(4, 7.5, 320),
    Setting(10, 1.0, 256),
    Setting(4, 1.0, 320),
)


def benchmark_estimators(
    pipe: Any,
    concepts: ConceptSet,
    out: str | Path,
    *,
    long: int = 640,
    settings: tuple[Setting, ...] = SETTINGS,
    seed: int = 0,
    batch_size: int = 12,
    height: int | None = None,
    width: int | None = None,
    progress: bool = True,
) -> Estimators:
    """Compare estimators; a finished setting is not generated again.

    Args:
        pipe: The user's pipeline, which is left unchanged.
        concepts: The concepts that heads choose between.
        out: Folder for the votes of every setting, and for the result.
        long: The number of images in the long run.
        settings: The settings to compare.
        seed, batch_size, height, width, progress: As in `measure`.

    Raises:
        RunMismatch: `out` holds votes of another run.
    """
    out = Path(out)
    first = max(setting.pictures for setting in settings)
    size: dict[str, Any] = {"height": height, "width": width}
    truth = measure(
        pipe, concepts, beside=None, estimator="paper", pictures=first + long,
        numbers=range(first, first + long), seed=seed, batch_size=batch_size, out=out / "long",
        progress=progress, **size,
    )  # fmt: skip
    curves: dict[str, Curve] = {}
    weights = {key: truth.settings[key] for key in ("weights", "concept_set")}
    for setting in settings:
        file, expected = out / f"{setting.name}.safetensors", weights | vars(setting) | {"seed": seed} | size
        if not file.is_file():
            votes = _votes(pipe, concepts, setting, seed, batch_size, progress, size)
            write_arrays(file, "estimators", votes, expected)
        votes, stored = read_arrays(file, "estimators", tuple(WAYS))
        _require_same(file, stored, expected)
        for way in WAYS:
            cost = setting.rows(way) * setting.pictures / BLOCKS
            curves[f"{setting.name}, {way}"] = list(_curve(votes[way], truth, cost))
    about = {
        "model": truth.settings["model"],
        "long_run": long,
        "long_run_split_half": float(np.median(truth.split_half)),
        "seed": seed,
        "lean": estimator_name(LEAN.num_inference_steps, LEAN.samples_per_call),
        **size,
    }
    result = Estimators(curves, about)
    content = {"settings": about, "estimators": result.numbers()}
    write_whole(out / ESTIMATORS_FILE, f"{json.dumps(content, indent=1)}\n".encode())
    return result


def _require_same(file: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    if {key: stored.get(key) for key in expected} != expected:
        raise RunMismatch(
            f"{file} is from a different run: it has {stored}; expected {expected}. Give another "
            "folder, or the same settings."
        )


def _curve(
    blocks: Float[np.ndarray, "blocks concepts all_heads"], truth: Relevance, cost: float
) -> Iterator[tuple[float, float, float, float]]:
    """The rows, and the mean, lowest and highest agreement over disjoint groups of blocks."""
    for group in GROUPS:
        runs = blocks.reshape(BLOCKS // group, group, *blocks.shape[1:]).sum(1)
        agree = [float(np.median(rank_correlation(run, truth.values))) for run in runs]
        yield cost * group, float(np.mean(agree)), min(agree), max(agree)


WAYS = ("1 draw", "2 draws", "4 draws", "8 draws", "soft", "all words", "both halves", "early")


def _votes(
    pipe: Any,
    concepts: ConceptSet,
    setting: Setting,
    seed: int,
    batch_size: int,
    progress: bool,
    size: dict[str, Any],
) -> dict[str, Float[np.ndarray, "blocks concepts all_heads"]]:
    """The votes of all ways, by block, on the same images."""
    probe = _EveryWay(pipe, concepts, seed, setting.early)
    texts = read_prompts(None, pipe)
    votes = {way: np.zeros((BLOCKS, len(concepts), probe.head_map.all_heads)) for way in WAYS}
    bar = tqdm(total=setting.pictures, desc=setting.name, unit="image", disable=not progress)
    with hooked(pipe, probe), quiet(pipe), bar:
        for numbers in batches(0, setting.pictures, batch_size, ()):
            probe.begin(numbers)
            generate(
                pipe,
                texts,
                seed,
                numbers,
                num_inference_steps=setting.num_inference_steps,
                guidance_scale=setting.guidance_scale,
                output_type="latent",
                **size,
            )
            for way, counted in probe.every_way().items():
                for number, image_votes in zip(numbers, counted, strict=True):
                    votes[way][number % BLOCKS] += image_votes
            bar.update(len(numbers))
    return votes


class _EveryWay(ConceptProbe):
    """The probe with 8 samples, which also counts votes in the other ways."""

    def __init__(self, pipe: Any, concepts: ConceptSet, seed: int, early: int) -> None:
        self.early = early
        super().__init__(pipe, concepts, seed, samples_per_call=8)

    def begin(self, pictures: Any) -> None:
        super().begin(pictures)
        self.soft: dict[int, Tensor] = {}  # of each layer
        self.all_words: dict[int, Tensor] = {}
        self.unconditional: dict[int, Tensor] = {}

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = super().__call__(attend, site, query, key, value)
        if site.kind == "cross":
            keys = self.keys[site.layer]
            conditional = query[site.conditional]
            for packed in self.packed[site.layer]:
                _add(self.soft, site.layer, _shares(conditional, keys, packed))
            _add(self.all_words, site.layer, self._hot(self._of_all_words(conditional, keys)))
            unconditional = query[: len(query) - len(conditional)]
            for packed in self.packed[site.layer] if len(unconditional) else ():
                _add(self.unconditional, site.layer, self._hot(_shares(unconditional, keys, packed)))
        return out

    def every_way(self) -> dict[str, Float[np.ndarray, "images concepts all_heads"]]:
        """The votes of each image in each way."""
        soft, all_words = _layers(self.soft), _layers(self.all_words)
        unconditional = _layers(self.unconditional) if self.unconditional else 0.0
        winners = self.take()
        hot = winners[..., None] == np.arange(len(self.concepts))  # images steps samples heads concepts

        def counted(steps: int | None, samples: int) -> np.ndarray:
            return hot[:, :steps, :samples].sum((1, 2)).swapaxes(1, 2).astype(float)

        every = counted(None, 8)
        return {
            "1 draw": counted(None, 1),
            "2 draws": counted(None, 2),
            "4 draws": counted(None, 4),
            "8 draws": every,
            "soft": soft,
            "all words": all_words,
            "both halves": every + unconditional,
            "early": counted(self.early, 8),
        }

    def _of_all_words(self, query: Tensor, keys: Tensor) -> Tensor:
        tokens = torch.softmax(query @ keys.transpose(-1, -2), -1).mean(-2)
        words = torch.from_numpy(self.tokens.words).to(tokens.device)
        is_token = words >= 0
        each = (tokens[..., words.clamp(min=0)] * is_token).sum(-1) / is_token.sum(-1)
        return torch.stack([by_word.mean(-1) for by_word in each.split(self.tokens.counts, -1)], -1)

    def _hot(self, values: Float[Tensor, "images heads concepts"]) -> Tensor:
        return torch.nn.functional.one_hot(values.argmax(-1), len(self.concepts)).cpu().double()


def _shares(
    query: Float[Tensor, "images heads pixels dim"],
    keys: Float[Tensor, "heads tokens dim"],
    packed: PackedWords,
) -> Float[Tensor, "images heads concepts"]:
    """Each concept's share of a head's attention to the sampled words: a[c] / Σ a."""
    attention = attention_to(query, keys[:, packed.tokens].transpose(0, 1), packed)
    return (attention / attention.sum(-1, keepdim=True)).cpu().double()


def _add(sums: dict[int, Tensor], layer: int, more: Tensor) -> None:
    sums[layer] = sums[layer] + more if layer in sums else more


def _layers(sums: dict[int, Tensor]) -> np.ndarray:
    """The sums of all layers, images × concepts × heads."""
    return torch.cat([sums[layer] for layer in sorted(sums)], 1).transpose(1, 2).cpu().numpy()
