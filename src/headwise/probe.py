r"""The probe: every head votes for the concept its picture attends to most.

At each call of the denoiser and each layer, one word w_c is drawn for every concept c. The words' tokens
stand side by side after one start token, with keys K; with the layer's own queries Q, for one picture and one
head,

    A    = softmax(Q Kᵀ/√d)                    "pixels tokens"
    a[c] = mean over the tokens of w_c of the mean over pixels of A
    vote = argmax_c a[c]                       the first of equals

The picture is not touched: the hook looks at Q and passes everything on. Only conditional rows are looked at.

The keys of all concept words are the denoiser's own: it reads them once more in place of the prompt, beside
the picture and unseen by it. In cross-attention they depend on nothing else, so that happens once. In joint
attention the text passes through the layers together with the pixels, so that it happens after every call:
with the pixels' keys K₀ and values V₀ of that call's own layer, a word's tokens with queries q, keys k and
values v go on with

    softmax(q [K₀ ; k]ᵀ/√d) [V₀ ; v]

which is what they would do as a prompt of this one word, were the picture not to look back at it.

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

from headwise.attention import Attend, DenoiserCall, Site, hooked
from headwise.concepts import ConceptSet, WordEmbeddings
from headwise.draws import Shown, WordTokens, draw_words
from headwise.errors import HeadwiseError, HookMisuse, LayerNotReached, ModelNotLoaded, NotFinite, RunMismatch
from headwise.generate import batches, generate, latent_shape
from headwise.heads import HeadMap
from headwise.pipelines import quiet
from headwise.prompts import read_prompts
from headwise.relevance import Relevance
from headwise.reliability import split_half
from headwise.runs import Progress, RunFolder, Told, settings_of, versions
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

    kinds = ("cross", "joint", "text")

    def __init__(
        self, pipe: Any, concepts: ConceptSet, seed: int = 0, embeddings: WordEmbeddings | None = None
    ) -> None:
        self.concepts, self.seed, self.head_map = concepts, seed, HeadMap.of(pipe)
        self.tokens = WordTokens(embeddings or concepts.embed(pipe))
        self.keys: dict[int, Tensor] = {}  # of all words at each cross-attention layer
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of pixels at each joint attention layer
        self.travelling = False
        self.begin(None)

    def begin(self, pictures: Sequence[int] | None) -> None:
        """Forget the last pictures and expect those of these numbers (0, 1, … if None) in the next call."""
        self.pictures = None if pictures is None else tuple(pictures)
        self.draws: np.ndarray | None = None
        self.winners: dict[tuple[int, int], Tensor] = {}
        self.shown: list[Shown] = []  # of the call under way, layer by layer
        self.votes: list[Tensor | None] = []

    def prepare(self, call: DenoiserCall) -> None:
        """Draw the words of this call, and make their keys for cross-attention."""
        if not self.keys and any(layer.kind == "cross" for layer in self.head_map):
            self._travel(call, 1)
        self.votes = [None] * len(self.head_map)
        if not call.prompted:
            return
        if (call.step, 0) in self.winners:
            raise HookMisuse(
                "The probe saw a second pipeline call. Take the votes of each call and begin anew."
            )
        drawn, wide = self._draws(call), torch.promote_types(self.tokens.embeddings.dtype, torch.float32)
        self.shown = [
            self.tokens.side_by_side(drawn[:, layer]).to(call.device, wide)
            for layer in range(len(self.head_map))
        ]

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Vote, and attend as ever."""
        with torch.no_grad():
            if self.travelling and site.kind == "text":
                return self._follow(site, query, key, value)
            if self.travelling and site.kind == "cross":
                self.keys[site.layer] = key[0] * key.shape[-1] ** -0.5
            elif site.kind == "cross":
                self._look(site, query[site.conditional])
            elif site.kind == "joint" and not self.travelling:
                self._keep(site, query, key, value)
        return attend(query, key, value)

    def finish(self, call: DenoiserCall) -> None:
        """Send the concept words after the pixels of joint attention, and let the heads vote."""
        if self.seen:
            self._travel(call, call.pictures)
            self.seen = {}
        for layer, votes in enumerate(self.votes):
            if votes is not None:
                self.winners[call.step, layer] = votes

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

    def _travel(self, call: DenoiserCall, travellers: int) -> None:
        """Let the denoiser read all concept words, side by side, in place of the prompt."""
        if call.travel is None:
            raise HookMisuse("The probe was asked to prepare outside `hooked`. Enter the context first.")
        width, reads = self.tokens.embeddings.shape[-1], call.width
        if reads not in (0, width):
            raise ModelNotLoaded(
                f"The denoiser reads text {reads} wide, the concept words' embeddings are {width} wide. "
                "Embed them with the same pipeline."
            )
        self.travelling = True
        try:
            call.travel(self, self.tokens.embeddings, travellers)
        finally:
            self.travelling = False

    def _keep(self, site: Site, query: Tensor, key: Tensor, value: Tensor) -> None:
        """What the concept words will need of this layer's pixels."""
        mine = [tensor[site.conditional] for tensor in (query, key, value)]
        if len(mine[0]):
            self.seen[site.layer] = (mine[0], _pixels(mine[1], site.text), _pixels(mine[2], site.text))

    def _follow(self, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Vote with the words' keys here, and let each word attend to the pixels, the start and itself."""
        pixels, pixel_keys, pixel_values = self.seen[site.layer]
        own_keys, own_values = key[..., site.text, :], value[..., site.text, :]
        self._vote(site, pixels, own_keys * pixels.shape[-1] ** -0.5)
        owner = self.tokens.owner.to(query.device)
        allowed = (owner[:, None] == owner) | (owner == -1)
        allowed = torch.cat([allowed.new_ones(len(owner), pixel_keys.shape[-2]), allowed], 1)
        keys, values = torch.cat([pixel_keys, own_keys], -2), torch.cat([pixel_values, own_values], -2)
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=allowed)

    def _look(self, site: Site, query: Tensor) -> None:
        if len(query):
            self._vote(site, query, self.keys[site.layer][None].expand(len(query), -1, -1, -1))

    def _vote(self, site: Site, query: Tensor, keys: Float[Tensor, "pictures heads all_tokens dim"]) -> None:
        shown = self.shown[site.layer]
        key = torch.stack([of_picture[:, own] for of_picture, own in zip(keys, shown.tokens, strict=True)])
        self.votes[site.layer] = preferred(query, key, shown)

    def _draws(self, call: DenoiserCall) -> Int[np.ndarray, "pictures layers concepts"]:
        numbers = self.pictures or tuple(range(call.pictures))
        if len(numbers) != call.pictures:
            raise HookMisuse(
                f"The probe was to see {len(numbers)} pictures, but {call.pictures} rows carry a prompt."
            )
        if self.draws is None or self.draws.shape[1] <= call.step:
            # How many calls will come is not known; longer draws begin as shorter ones.
            calls, layers = max(64, 2 * call.step), len(self.head_map)
            drawn = [draw_words(self.seed, n, calls, layers, self.tokens.counts) for n in numbers]
            self.draws = np.stack(drawn)
        return self.draws[:, call.step]


def _pixels(tensor: Tensor, text: slice) -> Tensor:
    """The keys or values of the pixels, copied so that the text's can be forgotten."""
    return (tensor[..., : text.start, :] if text.start else tensor[..., text.stop :, :]).contiguous()


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
    progress: Told = True,
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
        progress: Show a bar on stderr; or a callable that is told, after each batch, how many pictures of how
            many are counted. What it raises ends the run, with all that was counted kept.
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
