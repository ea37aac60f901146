r"""Which method of editing given images shows the target best, at equal preservation?

The images are not the model's own. Each is inverted once per seed (edit friendly, with the guidance of the
edit, so that its own prompt reproduces it), and edited by every method at every position of the method's
dial. Edits start from the inverted noise and skip the first 0.36 of the steps; windows of attention are
fractions of the other steps. Images are scored by the metrics of editing.py, and methods compared along their
curves of alignment against preservation (trade_off.py), because the dial of each method trades one for the
other.

    inversion                       the target from the inverted noise, without a hook; its dial is the skip
    sdedit                          no inversion: noise the image and denoise it
    prompt-to-prompt, plug-and-play, masactrl, free-prompt         see editing/baselines
    all heads                       prompt-to-prompt, with one factor on the target's word in all heads
    votes, effect                   prompt-to-prompt, with the target's word strengthened by relevance
    votes, random heads; effect, …  the same factors, permuted over heads
    truth                           the image that an edit should reach, if it is known

References:
    | An Edit Friendly DDPM Noise Space: Inversion and Manipulations (Huberman-Spiegelglas et al., 2023)
    | https://arxiv.org/abs/2304.06140
    | Direct Inversion: Boosting Diffusion-based Editing with 3 Lines of Code (Ju et al., 2023)
    | https://arxiv.org/abs/2310.01506
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Unpack

import numpy as np
from PIL import Image

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.comparison import known_methods, spread_evenly, supported_methods
from headwise.benchmarks.editing import METRICS, edit_scores, with_random_heads
from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.sweep import Call, KeptImage, RunOptions, Sweep, run_sweep
from headwise.benchmarks.trade_off import SOURCE, GivenEditing
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.inversion import Inversion, edit_picture, invert
from headwise.editing.prompt_to_prompt import PromptToPrompt
from headwise.editing.support import require_support
from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import image_size
from headwise.model.pipelines import settings_of_pictures
from headwise.model.sites import AttentionHook
from headwise.pictures import fitted, read_picture
from headwise.runs.image_names import ImageName
from headwise.runs.scores import Axes

__all__ = ["GIVEN_METHODS", "GivenEdit", "GivenMethod", "benchmark_given_editing"]

SKIP = 0.36  # of the steps, skipped by all methods on inverted noise, as in the edit-friendly paper


@dataclass(frozen=True)
class GivenEdit:
    """The input of a method.

    Args:
        pipe: The pipeline.
        pair: Source and target prompts.
        picture: The given image, at the pipeline's size.
        inversion: Returns the inversion of the image, computed once for all methods.
        relevance: Relevance by kind, "votes" or "effect".
        seed: The seed of all noise.
        passed: Options of the pipeline call.
    """

    pipe: Any
    pair: EditPair
    picture: Image.Image
    inversion: Callable[[], Inversion]
    relevance: Mapping[str, Relevance]
    seed: int
    passed: Mapping[str, Any]


MakeHooks = Callable[[Mapping[str, Relevance], EditPair, float], list[AttentionHook]]


@dataclass(frozen=True)
class GivenMethod:
    """A method of editing given images, and its dial.

    Args:
        edit: From a `GivenEdit` and a position of the dial to the edited image.
        dial: The positions of the dial; empty if the method has none.
        reads: The kind of relevance that it reads, "votes" or "effect"; "" for none.
        needs: The methods it uses, as `require_support` takes them.
        hooks: From the relevance by kind, a pair and a position of the dial to its hooks.
    """

    edit: Callable[[GivenEdit, float], Image.Image]
    dial: tuple[float | int, ...] = ()
    reads: str = ""
    needs: tuple[Any, ...] = ()
    hooks: MakeHooks = lambda relevance, pair, dial: []

    def settings(self, name: str) -> list[tuple[str, float]]:
        """Its settings by name, such as "votes, 0.5", with their positions of the dial."""
        return [(f"{name}, {position:g}", float(position)) for position in self.dial] or [(name, 0.0)]

    def require(self, pipe: Any, relevance: Mapping[str, Relevance], pair: EditPair) -> None:
        """Refuse a pipeline on which the method does not work.

        Raises:
            Unsupported: The method does not work on this kind of model.
            HookMisuse: The model lacks a block that it needs.
        """
        require_support(pipe, *self.needs)
        by_position = [self.hooks(relevance, pair, position) for _, position in self.settings("")]
        with hooked(pipe, *by_position[0]):
            pass  # looks up the blocks that hooks name
        require_support(pipe, *(hook for hooks in by_position for hook in hooks))


def _with(make: MakeHooks, *dial: float | int, reads: str = "") -> GivenMethod:
    """A method that generates from the inverted noise with hooks."""

    def edited(given: GivenEdit, position: float) -> Image.Image:
        return _from_inversion(given, make(given.relevance, given.pair, position))

    return GivenMethod(edited, dial, reads, (invert,), make)


def _from_inversion(given: GivenEdit, hooks: Sequence[AttentionHook], skip: float = SKIP) -> Image.Image:
    """The target from the inverted noise, without the first steps."""
    guidance_scale, targets = given.passed["guidance_scale"], [given.pair.target]
    options = {"skip": skip, "guidance_scale": guidance_scale}
    with warnings.catch_warnings():
        # preservation includes what the autoencoder loses, and every setting would repeat the warning
        warnings.filterwarnings("ignore", "The image is reconstructed poorly")
        return edit_picture(given.pipe, given.inversion(), targets, hooks, **options)[1]


def _sdedit(given: GivenEdit, strength: float) -> Image.Image:
    options = {"strength": strength, "seeds": [given.seed], **given.passed}
    return sdedit(given.pipe, [given.picture], [given.pair.target], **options)[0]


def _truth(given: GivenEdit, position: float) -> Image.Image:
    if given.pair.truth is None:
        raise HeadwiseError(
            f'The pair of "{given.pair.target}" has no `truth`, the image that its edit should reach. '
            'Add it, or leave the method "truth" out.'
        )
    return fitted(read_picture(given.pair.truth), given.picture.size)


def _by_heads(kind: str, *dial: float | int, random: bool = False) -> GivenMethod:
    """Prompt-to-prompt that strengthens the target's word by relevance of this kind."""

    def hooks(relevance: Mapping[str, Relevance], pair: EditPair, dial: float) -> list[AttentionHook]:
        values = with_random_heads(relevance[kind]) if random else relevance[kind]
        concepts = {pair.word: pair.concept or pair.attribute}
        return [PromptToPrompt(relevance=values, concepts=concepts, strength=dial)]

    return _with(hooks, *dial, reads=kind)


def _all_heads(relevance: Mapping[str, Relevance], pair: EditPair, factor: float) -> list[AttentionHook]:
    """As with relevance, the word keeps its own map and the layout stays as long, but with one factor."""
    cross, weights = {"": 0.8, pair.word: 0.0}, {pair.word: factor}
    return [PromptToPrompt(cross=cross, weights=weights, self_attention=0.9)]


GIVEN_METHODS: dict[str, GivenMethod] = {
    "inversion": GivenMethod(lambda g, skip: _from_inversion(g, [], skip), (0, 0.2, 0.4, 0.6), "", (invert,)),
    "sdedit": GivenMethod(_sdedit, (0.35, 0.5, 0.65, 0.8, 0.9), "", (sdedit,)),
    "prompt-to-prompt": _with(
        lambda r, pair, until: [PromptToPrompt(self_attention=until)], 0, 0.25, 0.5, 0.75, 1
    ),
    "plug-and-play": _with(
        lambda r, pair, until: [PlugAndPlay(features_until=until, attention_until=until)], 0.25, 0.5, 0.75, 1
    ),
    "masactrl": _with(lambda r, pair, start: [MasaCtrl(start=start)], 0, 0.1, 0.25, 0.5, 0.75),
    "free-prompt": _with(lambda r, pair, until: [FreePrompt(until=until)], 0.2, 0.4, 0.6, 0.8, 1),
    "all heads": _with(_all_heads, 1, 1.5, 2, 3, 5),
    "votes": _by_heads("votes", 0.25, 0.5, 1, 2, 4),
    "votes, random heads": _by_heads("votes", 0.25, 0.5, 1, 2, 4, random=True),
    "effect": _by_heads("effect", 0.25, 0.5, 1, 1.5, 2),  # doses; above 2, factors reach their bounds
    "effect, random heads": _by_heads("effect", 0.25, 0.5, 1, 1.5, 2, random=True),
    "truth": GivenMethod(_truth),
}


def benchmark_given_editing(
    pipe: Any,
    relevance: Relevance,
    pairs: Sequence[EditPair],
    scorer: CLIPScorer,
    *,
    effect: Relevance | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    keep_pairs: int = 0,
    **run: Unpack[RunOptions],
) -> GivenEditing:
    """Edit every given image by every method at every position of its dial.

    Args:
        pipe: The user's pipeline, which is left unchanged; or workers, which share the pairs (runs/ray.py).
        relevance: Relevance by votes, measured on this model, with its head map.
        pairs: Pairs with images, as `given_pairs` reads them.
        scorer: A CLIP model that compares images with texts and with each other.
        effect: Relevance by effect, for the methods of that name.
        methods: Some of `GIVEN_METHODS`; if None, all whose arguments are given, with a warning about those
            that do not work on this pipeline.
        seeds: Each image is inverted and edited once from each seed.
        num_inference_steps, guidance_scale: The settings of the inversion and of the edits.
        keep_pairs: The number of pairs, evenly spaced, whose images of the first seed are saved in
            `out`/pictures.
        run: `out`, `numbers`, `checkpoint_every` and `progress`, as in `run_sweep`.

    Raises:
        HeadwiseError: A pair has no image, or a method is unknown or lacks an argument.
        Unsupported, HookMisuse: A method that was named does not work on this pipeline.
    """
    measured = {"votes": relevance} | ({} if effect is None else {"effect": effect})
    known = known_methods(methods, GIVEN_METHODS, pairs, "pair with an image", _lacking(measured, pairs))
    for pair in pairs:
        if pair.picture is None:
            raise HeadwiseError(f'"{pair.target}" has no image to edit. Read pairs with `given_pairs`.')
    passed = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    comparing = _Comparing(
        tuple(pairs), known, methods is not None, measured, tuple(seeds), keep_pairs, passed
    )
    scores = run_sweep(pipe, partial(_sweep, comparing, scorer), kind="given-editing", **run)
    return GivenEditing(scores, tuple(pair.attribute for pair in pairs))


def _lacking(measured: Mapping[str, Relevance], pairs: Sequence[EditPair]) -> dict[str, str]:
    """By method, the argument that it needs but that was not given."""
    lacking = {}
    for name, method in GIVEN_METHODS.items():
        concepts = measured.get(method.reads, ())
        unmeasured = [c for p in pairs if (c := p.concept or p.attribute) not in concepts]
        if method.reads and method.reads not in measured:
            lacking[name] = method.reads
        elif method.reads and unmeasured:
            lacking[name] = f"relevance of {unmeasured[0]}"
        elif name == "truth" and any(pair.truth is None for pair in pairs):
            lacking[name] = "truth of every pair"
    return lacking


@dataclass(frozen=True)
class _Comparing:
    """What is compared; arguments as in `benchmark_given_editing`, relevance by kind."""

    pairs: tuple[EditPair, ...]
    methods: tuple[str, ...]
    by_name: bool
    measured: dict[str, Relevance]
    seeds: tuple[int, ...]
    keep_pairs: int
    passed: dict[str, Any]

    def positions(self, pipe: Any) -> dict[str, tuple[str, float]]:
        """The method and position of the dial of each setting, for methods that work on this pipeline."""
        require = lambda name: GIVEN_METHODS[name].require(pipe, self.measured, self.pairs[0])  # noqa: E731
        positions = {SOURCE: ("", 0.0)}
        for name in supported_methods(self.methods, require, self.by_name):
            settings = GIVEN_METHODS[name].settings(name)
            positions |= {setting: (name, position) for setting, position in settings}
        return positions


def _sweep(comparing: _Comparing, scorer: CLIPScorer, pipe: Any) -> Sweep:
    """The sweep over seeds, pairs and settings; an image is inverted once for all settings."""
    pairs, passed, size = comparing.pairs, comparing.passed, image_size(pipe)
    positions, kept = comparing.positions(pipe), spread_evenly(comparing.keep_pairs, len(pairs))
    settings = settings_of_pictures(pipe, [text for pair in pairs for text in (pair.source, pair.target)])
    settings |= passed | {kind: each.settings.get("weights") for kind, each in comparing.measured.items()}
    settings |= {"scorer": scorer.weights, "attributes": [pair.attribute for pair in pairs]}
    settings |= {"images": [pair.picture.name for pair in pairs if pair.picture]}

    @lru_cache(1)
    def picture_of(number: int) -> Image.Image:
        return fitted(read_picture(pairs[number].picture or ""), size)

    @lru_cache(1)
    def inverted(number: int, seed: int) -> Inversion:
        return invert(pipe, picture_of(number), pairs[number].source, seed=seed, **passed)

    def edited(number: int, seed: int, setting: str) -> Image.Image:
        """The image of a pair, at the pipeline's size, edited at a setting of `positions`."""
        if setting == SOURCE:
            return picture_of(number)
        name, position = positions[setting]
        inversion = partial(inverted, number, seed)
        given = GivenEdit(
            pipe, pairs[number], picture_of(number), inversion, comparing.measured, seed, passed
        )
        return GIVEN_METHODS[name].edit(given, position)

    def generate(call: Call) -> Sequence[Image.Image]:
        rows = zip(call.numbers, call.labels("seed"), call.labels("setting"), strict=True)
        return [edited(*row) for row in rows]

    def score(call: Call, images: Sequence[Image.Image]) -> np.ndarray:
        sources = [picture_of(number) for number in call.numbers]
        return edit_scores(scorer, [pairs[number] for number in call.numbers], sources, images)

    def keep(call: Call, images: Sequence[Image.Image]) -> Iterator[KeptImage]:
        rows = zip(call.numbers, call.labels("setting"), call.index("seed"), images, strict=True)
        for number, setting, seed, image in rows:
            if seed == 0 and number in kept:
                prompt = pairs[number].source if setting == SOURCE else pairs[number].target
                yield KeptImage(ImageName(number, setting), image, prompt)

    axes: Axes = {"setting": tuple(positions), "measure": METRICS, "seed": comparing.seeds}
    return Sweep(
        {**axes, "pair": range(len(pairs))},
        settings,
        loops=("seed", "pair", "setting"),
        batch_size=1,
        generate=generate,
        score=score,
        keep=keep,
    )
