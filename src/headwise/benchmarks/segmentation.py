r"""Do heat maps of a word show where in an image it is?

Images with known masks are noised to every level of the schedule, and the denoiser is called with their
prompt (`model/noised_image.py`). A method is a weighting of heads; its map of a word is the weighted mean of
the heads' attention to the word, scaled to 0 … 1 over the image. Each map is scored by

    precision   average precision, with pixels ranked by the map and those of the mask as positives
    IoU         |map > τ and mask| / |map > τ or mask|, τ the method's best on the other half of the images

and the methods are

    all heads                            DAAM
    random quarter                       a quarter of the heads, the same for all words
    votes, effect                        heads weighted by relevance, those below 0 left out
    votes, top quarter; effect, …        the quarter of the heads with most relevance, equally weighted
    effect, other concepts               the quarter with most mean effect over all other concepts, the
                                         control for heads that act on any word

References:
    | What the DAAM: Interpreting Stable Diffusion Using Cross Attention (Tang et al., 2022)
    | https://arxiv.org/abs/2210.04885
    | Selective Aggregation of Attention Maps (Park et al., 2026): the top quarter by votes
    | https://arxiv.org/abs/2604.05906
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image

from headwise.benchmarks.comparison import known_methods, spread_evenly
from headwise.benchmarks.method_results import Segmentation
from headwise.benchmarks.prompts.masked_words import MaskedWord
from headwise.benchmarks.sweep import Call, KeptImage, RunOptions, Sweep, run_sweep
from headwise.measuring.attention_maps import AttentionMaps, WordMaps
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import image_size
from headwise.model.noised_image import denoise_image
from headwise.model.pipelines import settings_of_pictures
from headwise.model.tokens import words_of
from headwise.pictures import fitted
from headwise.runs.image_names import ImageName
from headwise.runs.scores import Axes

__all__ = ["SEGMENTING", "Segmentation", "average_precision", "benchmark_segmentation", "ious"]

Heads = Float[np.ndarray, " all_heads"]


def _quarter(order: np.ndarray) -> Heads:
    """1 for the first quarter of an order of heads, 0 for the rest."""
    chosen = np.zeros(len(order))
    chosen[order[: -(-len(order) // 4)]] = 1
    return chosen


def _alike(relevance: Relevance, concept: str) -> Heads:
    return np.ones(relevance.values.shape[1])


def _random_quarter(relevance: Relevance, concept: str) -> Heads:
    return _quarter(np.random.Generator(np.random.Philox(0)).permutation(relevance.values.shape[1]))


def _by_relevance(relevance: Relevance, concept: str) -> Heads:
    return np.maximum(relevance[concept], 0)


def _top_quarter(relevance: Relevance, concept: str) -> Heads:
    return _quarter(np.argsort(-relevance[concept], kind="stable"))


def _top_quarter_of_others(relevance: Relevance, concept: str) -> Heads:
    others = [name for name in relevance.concepts if name != concept] or [concept]
    return _quarter(np.argsort(-np.mean([relevance[name] for name in others], 0), kind="stable"))


# By method: the kind of relevance it reads, and a function of it and a word's concept to weights of heads.
SEGMENTING: dict[str, tuple[str, Callable[[Relevance, str], Heads]]] = {
    "all heads": ("votes", _alike),
    "random quarter": ("votes", _random_quarter),
    "votes": ("votes", _by_relevance),
    "votes, top quarter": ("votes", _top_quarter),
    "effect": ("effect", _by_relevance),
    "effect, top quarter": ("effect", _top_quarter),
    "effect, other concepts": ("effect", _top_quarter_of_others),
}


def benchmark_segmentation(
    pipe: Any,
    relevance: Relevance,
    words: Sequence[MaskedWord],
    *,
    effect: Relevance | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    num_inference_steps: int = 10,
    keep_words: int = 0,
    **run: Unpack[RunOptions],
) -> Segmentation:
    """Compute the map of every word by every method, and compare it with the word's mask.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the words (runs/ray.py).
        relevance: Relevance by votes, measured on this model, with its head map.
        words: Words of images, with their masks.
        effect: Relevance by effect, for the methods of that name.
        methods: Some of `SEGMENTING`; if None, all whose relevance is given.
        seeds: Each image is noised once with each seed.
        num_inference_steps: The number of noise levels at which the denoiser is called on each image.
        keep_words: The number of words, evenly spaced, whose images are saved in `out`/pictures, lit by their
            maps of the first seed.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.

    Raises:
        HeadwiseError: A method is unknown, or the relevance that it reads was not given.
        UnknownConcept: The concept of a word was not measured.
    """
    given = {"votes": relevance} | ({} if effect is None else {"effect": effect})
    lacking = {method: kind for method, (kind, _) in SEGMENTING.items() if kind not in given}
    known = known_methods(methods, SEGMENTING, words, "word with its mask", lacking)
    for word in words:
        for each in given.values():
            each[word.concept]  # refuses a concept that was not measured
    comparing = _Comparing(tuple(words), known, given, tuple(seeds), num_inference_steps, keep_words)
    scores = run_sweep(pipe, partial(_sweep, comparing), kind="segmentation", **run)
    return Segmentation(scores, tuple(w.kind for w in words), tuple(w.picture.name for w in words))


@dataclass(frozen=True)
class _Comparing:
    """What is compared; arguments as in `benchmark_segmentation`, relevance by kind."""

    words: tuple[MaskedWord, ...]
    methods: tuple[str, ...]
    given: dict[str, Relevance]
    seeds: tuple[int, ...]
    levels: int
    keep_words: int


def _sweep(comparing: _Comparing, pipe: Any) -> Sweep:
    """The sweep over seeds, words and methods; the maps of an image are computed once for all its words."""
    words, given, levels = comparing.words, comparing.given, comparing.levels
    settings = settings_of_pictures(pipe, [word.prompt for word in words]) | {"noise_levels": levels}
    settings |= {kind: each.settings.get("weights") for kind, each in given.items()}
    settings |= {"words": [word.word for word in words], "kinds": [word.kind for word in words]}
    settings |= {"images": [word.picture.name for word in words]}
    size, kept = image_size(pipe), spread_evenly(comparing.keep_words, len(words))

    @lru_cache(1)
    def maps_of(number: int, seed: int) -> WordMaps:
        recorder = AttentionMaps()
        with hooked(pipe, recorder):
            image = words[number].image()
            denoise_image(pipe, image, words[number].prompt, key=seed, num_inference_steps=levels)
        return recorder.take()

    def generate(call: Call) -> Sequence[Any]:
        return [
            _map(maps_of(_first_of(words, number), seed), words[number], method, given)
            for number, seed, method in zip(
                call.numbers, call.labels("seed"), call.labels("method"), strict=True
            )
        ]

    def score(call: Call, maps: Sequence[Any]) -> np.ndarray:
        masks = [words[number].mask(size) for number in call.numbers]
        return np.stack([_scores(map_, mask) for map_, mask in zip(maps, masks, strict=True)], 1)

    def keep(call: Call, maps: Sequence[Any]) -> Iterator[KeptImage]:
        """The image of each kept word, lit by its mask and by its map."""
        rows = zip(call.numbers, call.labels("method"), call.index("seed"), maps, strict=True)
        for number, method, seed, map_ in rows:
            if seed == 0 and number in kept:
                word = words[number]
                image, text = fitted(word.image(), size), f"{word.word}: {word.prompt}"
                yield KeptImage(ImageName(number, "mask"), _lit(image, word.mask(size).astype(float)), text)
                yield KeptImage(ImageName(number, method), _lit(image, _large(map_, size)), text)

    axes: Axes = {"method": comparing.methods, "measure": Segmentation.METRICS, "seed": comparing.seeds}
    return Sweep(
        {**axes, "word": range(len(words))},
        settings,
        loops=("seed", "word", "method"),
        batch_size=1,
        generate=generate,
        score=score,
        keep=keep,
    )


def _first_of(words: Sequence[MaskedWord], number: int) -> int:
    """The number of the first word of the same image."""
    return next(n for n, word in enumerate(words) if word.picture == words[number].picture)


def _map(
    maps: WordMaps, word: MaskedWord, method: str, given: dict[str, Relevance]
) -> Float[np.ndarray, "height width"]:
    """The map of a word or phrase by a method, on the grid of the finest layer."""
    kind, weigh = SEGMENTING[method]
    given[kind].require(maps.head_map)
    columns = [n for n, each in enumerate(maps.words) if each.text in words_of(word.word)]
    weights = np.tile(weigh(given[kind], word.concept).astype(np.float64), (len(maps.words), 1))
    return maps.together(weights)[..., columns].mean(-1)


def _scores(
    map_: Float[np.ndarray, "rows columns"], mask: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " metrics"]:
    """The average precision and the IoU at every threshold, at the size of the mask."""
    large = _large(map_, mask.shape[::-1])
    return np.concatenate([[average_precision(large, mask)], ious(large, mask)])


def _large(
    map_: Float[np.ndarray, "rows columns"], size: tuple[int, ...]
) -> Float[np.ndarray, "height width"]:
    """The map at this width and height, scaled to 0 … 1."""
    large = F.interpolate(torch.from_numpy(map_)[None, None], size[::-1], mode="bilinear")[0, 0].numpy()
    return (large - large.min()) / (float(np.ptp(large)) or 1.0)


def _lit(image: Image.Image, light: Float[np.ndarray, "height width"]) -> Image.Image:
    """The image, bright where the light is 1 and dark where it is 0."""
    pixels = np.asarray(image, np.float32) * (0.15 + 0.85 * light[..., None])
    return Image.fromarray(pixels.round().astype(np.uint8))


def average_precision(
    map_: Float[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]
) -> float:
    """The mean precision at the pixels of the mask, with pixels ranked by the map from above, 0 … 1."""
    inside = mask.ravel()[np.argsort(-map_.ravel(), kind="stable")]
    precision = np.cumsum(inside) / np.arange(1, inside.size + 1)
    return float(precision[inside].mean())


def ious(
    map_: Float[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " thresholds"]:
    """Intersection over union, 0 … 1, of the mask and the pixels where the map is above each threshold."""
    above = map_[None] > np.array(Segmentation.THRESHOLDS)[:, None, None]
    return (above & mask).sum((1, 2)) / (above | mask).sum((1, 2))
