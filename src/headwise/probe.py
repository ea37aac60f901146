r"""The probe: every head votes for the concept its picture attends to most.

At each call of the denoiser and each layer, one word w_c is drawn for every concept c. The words' tokens
stand side by side after one start token, with keys K; with the layer's own queries Q, for one picture and one
head,

    A    = softmax(Q Kᵀ/√d)                    "pixels tokens"
    a[c] = mean over the tokens of w_c of the mean over pixels of A
    vote = argmax_c a[c]                       the first of equals

The picture is not touched: the hook looks at Q and passes everything on. Only conditional rows are looked at.
Keys of all concept words are projected once per layer, by the layer's own `to_k`, and gathered by the draws.

Draws come from (seed, picture) alone, and of one picture's calls the first n are the same however many
follow.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwise.attention import Attend, Site, hooked
from headwise.concepts import ConceptSet, WordEmbeddings
from headwise.draws import Shown, WordTokens, draw_words
from headwise.errors import HeadwiseError, HookMisuse, LayerNotReached, ModelNotLoaded, NotFinite, RunMismatch
from headwise.generate import batches, generate, latent_shape
from headwise.heads import HeadMap
from headwise.pipelines import quiet
from headwise.prompts import read_prompts
from headwise.relevance import Relevance
from headwise.reliability import split_half
from headwise.runs import Progress, RunFolder, settings_of, versions
from headwise.votes import BLOCKS, Votes

__all__ = ["ConceptProbe", "draw_words", "measure", "preferred"]


def preferred(
    query: Float[Tensor, "pictures heads pixels dim"],
    key: Float[Tensor, "pictures heads tokens dim"],
    shown: Shown,
) -> Int[Tensor, "pictures heads"]:
    """The concept that each head's picture attends to most; −1 where attention is not finite.

    Args:
        query, key: Of one layer; the key already scaled by 1/√d.
        shown: Which tokens the keys belong to.
    """
    scores = (query @ key.transpose(-1, -2)).masked_fill_(shown.padding[:, None, None], -torch.inf)
    tokens = torch.softmax(scores, -1, dtype=shown.share.dtype).mean(-2)
    place = shown.place.flatten(1)[:, None].expand(-1, tokens.shape[1], -1)
    words = tokens.gather(-1, place).unflatten(-1, shown.place.shape[1:])
    concepts = (words * shown.share[:, None]).sum(-1)
    return torch.where(concepts.isfinite().all(-1), concepts.argmax(-1), -1)


class ConceptProbe:
    """A hook that votes.

        probe = ConceptProbe(pipe, ConceptSet.load("paper34"), seed=0)
        with hooked(pipe, probe):
            probe.begin([0, 1]); pipe(["a dog", "a cat"])
        winners = probe.take()

    Args:
        pipe: The pipeline that will be hooked.
        concepts: The concepts to choose between.
        seed: Of the word draws.
        embeddings: What `concepts.embed(pipe)` gave, if it is at hand.
    """

    def __init__(
        self, pipe: Any, concepts: ConceptSet, seed: int = 0, embeddings: WordEmbeddings | None = None
    ) -> None:
        self.concepts, self.seed, self.head_map = concepts, seed, HeadMap.of(pipe)
        self.tokens = WordTokens(embeddings or concepts.embed(pipe))
        self.keys: dict[int, Tensor] = {}
        self.begin(None)

    def begin(self, pictures: Sequence[int] | None) -> None:
        """Forget the last pictures and expect those of these numbers (0, 1, … if None) in the next call."""
        self.pictures = None if pictures is None else tuple(pictures)
        self.draws: np.ndarray | None = None
        self.winners: dict[tuple[int, int], Tensor] = {}

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Vote, and attend as ever."""
        with torch.no_grad():
            self._look(site, query[site.conditional])
        return attend(query, key, value)

    def take(self) -> Int[np.ndarray, "pictures steps all_heads"]:
        """The concept each head preferred at each call since `begin`; then forget it."""
        steps = 1 + max((step for step, _ in self.winners), default=-1)
        expected = [(step, layer) for step in range(steps) for layer in range(len(self.head_map))]
        if not steps or len(expected) != len(self.winners):
            raise LayerNotReached(
                f"The probe saw {len(self.winners)} layers in {steps} calls; "
                f"expected {len(self.head_map)} in each. Every call of the denoiser must run all its layers."
            )
        of_step = [
            torch.cat([self.winners[step, i] for i in range(len(self.head_map))], 1) for step in range(steps)
        ]
        winners = torch.stack(of_step, 1).cpu().numpy()
        self.begin(None)
        bad = np.nonzero((winners < 0).any((0, 2)))[0]
        if len(bad):
            raise NotFinite(
                f"The denoiser's queries are not finite at step {bad[0]}, "
                "so nothing was counted for these pictures. Look for NaN in the latents, "
                "or run the model in a wider type (bfloat16 or float32)."
            )
        return winners

    def _look(self, site: Site, query: Tensor) -> None:
        if (site.step, site.layer) in self.winners:
            raise HookMisuse(
                "The probe saw a second pipeline call. Take the votes of each call and begin anew."
            )
        drawn = self._draws(site)[:, site.step, site.layer]
        shown = self.tokens.side_by_side(drawn).to(query)
        key = self._keys(site, query)[shown.tokens].transpose(1, 2)
        self.winners[site.step, site.layer] = preferred(query, key, shown)

    def _draws(self, site: Site) -> Int[np.ndarray, "pictures calls layers concepts"]:
        rows = site.picture[site.conditional]
        numbers = self.pictures or rows
        if len(numbers) != len(rows):
            raise HookMisuse(
                f"The probe was to see {len(numbers)} pictures, but {len(rows)} rows carry a prompt."
            )
        if self.draws is None or self.draws.shape[1] <= site.step:
            calls = max(
                64, 2 * site.step
            )  # how many will come is not known; longer draws begin as shorter ones
            drawn = [
                draw_words(self.seed, numbers[row], calls, len(self.head_map), self.tokens.counts)
                for row in rows
            ]
            self.draws = np.stack(drawn)
        return self.draws

    def _keys(self, site: Site, query: Tensor) -> Float[Tensor, "tokens heads dim"]:
        """The keys of all concept words here, scaled by 1/√d; the module is called, so LoRA counts."""
        if site.layer not in self.keys:
            module: Any = site.module
            embeddings = self.tokens.embeddings.to(query)
            width = getattr(module.to_k, "in_features", embeddings.shape[-1])
            if width != embeddings.shape[-1]:
                raise ModelNotLoaded(
                    f"{site.address} reads text {width} wide, "
                    f"the text encoder gives {embeddings.shape[-1]}: the denoiser transforms its text first, "
                    "which the probe does not know how to do for this model."
                )
            if getattr(module, "norm_cross", None):
                embeddings = module.norm_encoder_hidden_states(embeddings[None])[0]
            keys = module.to_k(embeddings).unflatten(-1, (site.heads, -1))
            if getattr(module, "norm_k", None) is not None:
                keys = module.norm_k(keys.transpose(0, 1)).transpose(0, 1)
            self.keys[site.layer] = keys * getattr(module, "scale", keys.shape[-1] ** -0.5)
        return self.keys[site.layer]


def measure(
    pipe: Any,
    concepts: ConceptSet,
    *,
    pictures: int = 1000,
    prompts: Sequence[str] | str | Path | None = None,
    latents: Float[Tensor, "pictures channels height width"] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    batch_size: int = 1,
    num_inference_steps: int = 50,
    guidance_scale: float | int = 7.5,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    until: float | int | None = None,
    checkpoint_every: float | int = 10,
    keep_pictures: int = 0,
    progress: bool = True,
) -> Relevance:
    """Generate pictures, count votes, return relevance; with the same `out` it goes on where it ended.

    Args:
        pipe: The user's pipeline; it is left as it was.
        concepts: The concepts to choose between.
        pictures: How many to generate at most. A finished run may be called again with more.
        prompts: A list, a text file with one a line, or None for the package's own. Picture i has prompt i
            modulo their number.
        latents: Unit noise of every picture; drawn from the seed if None.
        seed: With a picture's number, the source of its latents and word draws.
        out: Folder for checkpoints and result, see runs.py; None keeps nothing on disk.
        batch_size: Pictures per pipeline call. It changes the time, not the votes.
        num_inference_steps, guidance_scale, negative_prompt, height, width: Passed to the pipeline.
        until: Stop at a multiple of 32 pictures where the median split-half correlation over concepts is
            this high.
        checkpoint_every: Seconds between checkpoints; 0 writes one after every batch.
        keep_pictures: Decode the first so many and save them in `out`/pictures; the others are never decoded.
        progress: Show a bar on stderr.
    """
    texts = read_prompts(prompts, pipe)
    _check(pipe, pictures, latents, batch_size, keep_pictures if out is None else 0, height, width)
    passed: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "height": height,
        "width": width,
    }
    settings = settings_of(pipe, concepts, texts, latents, seed) | passed
    folder = RunFolder(out, settings, Votes.empty(HeadMap.of(pipe), concepts, settings))
    if len(folder.so_far) > pictures:
        raise RunMismatch(
            f"{out} already counts {len(folder.so_far)} pictures, more than the {pictures} asked for. "
            "Ask for as many or more, or give another folder."
        )

    def make(numbers: range) -> None:
        """Generate one batch; only pictures that are kept are decoded."""
        kept = numbers[0] < keep_pictures
        wanted = passed | {"output_type": "pil" if kept else "latent"}
        images = generate(pipe, texts, seed, numbers, latents=latents, **wanted)
        for number, image in zip(numbers, images if kept else (), strict=kept):
            folder.keep(f"{number:05d}", image, texts[number % len(texts)])

    if not _enough(folder.so_far, pictures, until):
        probe = ConceptProbe(pipe, concepts, seed)
        # No batch reaches across a place where the run may stop, or where it stops decoding.
        cuts = [keep_pictures, *(range(0, pictures, BLOCKS) if until is not None else ())]
        todo = batches(len(folder.so_far), pictures, batch_size, cuts)
        with (
            hooked(pipe, probe),
            quiet(pipe),
            Progress(folder, pictures, checkpoint_every, progress, _how_sure) as done,
        ):
            for numbers in todo:
                probe.begin(numbers)
                make(numbers)
                done(Votes.of_pictures(probe.take(), numbers, probe.head_map, concepts, settings))
                if _enough(done.so_far, pictures, until):
                    break
    return _finished(folder)


def _finished(folder: RunFolder[Votes]) -> Relevance:
    """The relevance of all votes so far, saved beside them."""
    relevance = Relevance.from_votes(folder.so_far)
    relevance = replace(relevance, settings=relevance.settings | {"versions": versions()})
    if folder.path is not None:
        relevance.save(folder.path / "relevance.safetensors")
    return relevance


def _how_sure(votes: Votes) -> str:
    return f"split-half {np.median(split_half(votes)):.2f}"


def _enough(votes: Votes, pictures: int, until: float | int | None) -> bool:
    """Is the run over? Asked at multiples of 32 pictures only, whatever the batches and interruptions."""
    if len(votes) >= pictures:
        return True
    if until is None or len(votes) == 0 or len(votes) % BLOCKS:
        return False
    return bool(np.median(split_half(votes)) >= until)


def _check(
    pipe: Any,
    pictures: int,
    latents: Tensor | None,
    batch_size: int,
    homeless: int,
    height: int | None,
    width: int | None,
) -> None:
    if pictures < 1 or batch_size < 1:
        raise HeadwiseError(
            f"pictures={pictures} and batch_size={batch_size} were given; expected 1 or more of each."
        )
    if homeless:
        raise HeadwiseError(f"keep_pictures={homeless} pictures need a folder to go to. Give out=…")
    shape = latent_shape(pipe, height, width)
    if latents is not None and (len(latents) < pictures or tuple(latents.shape[1:]) != shape):
        raise HeadwiseError(
            f"The latents have shape {tuple(latents.shape)}; expected {(pictures, *shape)}, "
            "unit noise for every picture."
        )
