r"""The probe: every head votes for the concept its picture attends to most.

At each call of the denoiser and each layer, one word w_c is drawn for every concept c, once or several times
(estimators.py). The words' tokens stand side by side after one start token, with keys K; with the layer's own
queries Q, for one picture, one head and one draw,

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

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwise.attention import Attend, DenoiserCall, Site, hooked
from headwise.concepts import ConceptSet, WordEmbeddings
from headwise.dispatch import are_workers, parts, pieces_of
from headwise.draws import Shown, WordTokens, draw_words
from headwise.errors import HeadwiseError, HookMisuse, LayerNotReached, ModelNotLoaded, NotFinite, RunMismatch
from headwise.estimators import Estimator, Named, estimator_of
from headwise.generate import batches, generate, latent_shape
from headwise.heads import HeadMap
from headwise.pictures import save_picture
from headwise.pipelines import quiet
from headwise.prompts import read_prompts
from headwise.relevance import Relevance
from headwise.reliability import split_half
from headwise.runs import Progress, RunFolder, Told, settings_of
from headwise.shards import among, said_of
from headwise.votes import BLOCKS, Votes

__all__ = [
    "ConceptProbe",
    "attention_to",
    "draw_words",
    "finished",
    "measure",
    "preferred",
    "token_attention",
]

PIECE = 32  # pictures that one of several workers counts at a time


def token_attention(
    query: Float[Tensor, "pictures heads pixels dim"],
    key: Float[Tensor, "pictures heads tokens dim"],
    shown: Shown,
) -> Float[Tensor, "pictures heads concepts word_tokens"]:
    """The attention of each head to each token of each concept's word, the mean over pixels.

    Args:
        query, key: Of one layer; the key already scaled by 1/√d.
        shown: Which tokens the keys belong to; what stands beyond a shorter word's tokens has no share in it.
    """
    scores = (query @ key.transpose(-1, -2)).masked_fill_(shown.padding[:, None, None], -torch.inf)
    tokens = torch.softmax(scores, -1, dtype=shown.share.dtype).mean(-2)
    place = shown.place.flatten(1)[:, None].expand(-1, tokens.shape[1], -1)
    return tokens.gather(-1, place).unflatten(-1, shown.place.shape[1:])


def attention_to(
    query: Float[Tensor, "pictures heads pixels dim"],
    key: Float[Tensor, "pictures heads tokens dim"],
    shown: Shown,
) -> Float[Tensor, "pictures heads concepts"]:
    """The pooled attention a[c] of each head to the word of each concept, the mean over its tokens."""
    return (token_attention(query, key, shown) * shown.share[:, None]).sum(-1)


def preferred(
    attention: Float[Tensor, "pictures heads concepts"],
) -> Int[Tensor, "pictures heads"]:
    """The concept that each head's picture attends to most; −1 where attention is not finite."""
    return torch.where(attention.isfinite().all(-1), attention.argmax(-1), -1)


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
        draws: How often a word of each concept is drawn, at each call and layer.
    """

    kinds = ("cross", "joint", "text")

    def __init__(
        self,
        pipe: Any,
        concepts: ConceptSet,
        seed: int = 0,
        embeddings: WordEmbeddings | None = None,
        draws: int = 1,
    ) -> None:
        self.draws = draws
        self.concepts, self.seed, self.head_map = concepts, seed, HeadMap.of(pipe)
        self.tokens = WordTokens(embeddings or concepts.embed(pipe))
        self.keys: dict[int, Tensor] = {}  # of all words at each cross-attention layer
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of pixels at each joint attention layer
        self.travelling = False
        self.begin(None)

    def begin(self, pictures: Sequence[int] | None) -> None:
        """Forget the last pictures and expect those of these numbers (0, 1, … if None) in the next call."""
        self.pictures = None if pictures is None else tuple(pictures)
        self.drawn: np.ndarray | None = None
        self.winners: dict[tuple[int, int], Tensor] = {}
        self.shown: list[list[Shown]] = []  # of the call under way, each layer's draws
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
            [self.tokens.side_by_side(drawn[:, n, layer]).to(call.device, wide) for n in range(self.draws)]
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

    def take(self) -> Int[np.ndarray, "pictures steps draws all_heads"]:
        """The concept each head preferred at each call and draw since `begin`; then forget it."""
        steps = 1 + max((step for step, _ in self.winners), default=-1)
        expected = [(step, layer) for step in range(steps) for layer in range(len(self.head_map))]
        if not steps or len(expected) != len(self.winners):
            raise LayerNotReached(
                f"The probe saw {len(self.winners)} layers in {steps} calls; "
                f"expected {len(self.head_map)} in each. Every call of the denoiser must run all its layers."
            )
        of_step = [
            torch.cat([self.winners[step, i] for i in range(len(self.head_map))], 2) for step in range(steps)
        ]
        winners = torch.stack(of_step, 1).cpu().numpy()
        self.begin(None)
        bad = np.nonzero((winners < 0).any((0, 2, 3)))[0]
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
        votes = []
        for shown in self.shown[site.layer]:
            key = torch.stack(
                [of_picture[:, own] for of_picture, own in zip(keys, shown.tokens, strict=True)]
            )
            votes.append(preferred(attention_to(query, key, shown)))
        self.votes[site.layer] = torch.stack(votes, 1)

    def _draws(self, call: DenoiserCall) -> Int[np.ndarray, "pictures draws layers concepts"]:
        numbers = self.pictures or tuple(range(call.pictures))
        if len(numbers) != call.pictures:
            raise HookMisuse(
                f"The probe was to see {len(numbers)} pictures, but {call.pictures} rows carry a prompt."
            )
        start, stop = call.step * self.draws, (call.step + 1) * self.draws
        if self.drawn is None or self.drawn.shape[1] < stop:
            # How many calls will come is not known; longer draws begin as shorter ones.
            often, layers = max(64, 2 * stop), len(self.head_map)
            drawn = [draw_words(self.seed, n, often, layers, self.tokens.counts) for n in numbers]
            self.drawn = np.stack(drawn)
        return self.drawn[:, start:stop]


def _pixels(tensor: Tensor, text: slice) -> Tensor:
    """The keys or values of the pixels, copied so that the text's can be forgotten."""
    return (tensor[..., : text.start, :] if text.start else tensor[..., text.stop :, :]).contiguous()


def measure(
    pipe: Any,
    concepts: ConceptSet,
    *,
    pictures: int = 1000,
    numbers: range | None = None,
    prompts: Sequence[str] | str | Path | None = None,
    latents: Float[Tensor, "pictures channels height width"] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    batch_size: int = 1,
    estimator: Estimator | Named = "lean",
    num_inference_steps: int | None = None,
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
        pipe: The user's pipeline, which is left as it was; or workers who share the pictures (cluster.py).
        concepts: The concepts to choose between.
        pictures: How many to generate at most. A finished run may be called again with more.
        numbers: Which of them to count here, such as `range(500, 1000)`, where others count the rest.
        prompts: A list, a text file with one a line, or None for the package's own. Picture i has prompt i
            modulo their number.
        latents: Unit noise of every picture; drawn from the seed if None.
        seed: With a picture's number, the source of its latents and word draws.
        out: Folder for checkpoints and result, see runs.py; None keeps nothing on disk.
        batch_size: Pictures per pipeline call. It changes the time, not the votes.
        estimator: How much is seen of a picture (estimators.py): "lean", or "paper" for one draw a call.
        num_inference_steps: Passed to the pipeline; the estimator's own if None.
        guidance_scale, negative_prompt, height, width: Passed to the pipeline.
        until: Stop at a multiple of 32 pictures where the median split-half correlation over concepts is
            this high.
        checkpoint_every: Seconds between checkpoints; 0 writes one after every batch.
        keep_pictures: Decode the first so many and save them in `out`/pictures; the others are never decoded.
        progress: Show a bar on stderr; or a callable that is told, after each batch, how many pictures of how
            many are counted. What it raises ends the run, with all that was counted kept.
    """
    wanted, chosen = among(numbers, pictures), estimator_of(estimator)
    _check(pictures, numbers, batch_size, keep_pictures if out is None else 0, until)
    passed: dict[str, Any] = {
        "num_inference_steps": num_inference_steps or chosen.num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "height": height,
        "width": width,
    }
    # No batch reaches across a place where the run may stop, or where it stops decoding.
    cuts = (keep_pictures, *(range(0, pictures, BLOCKS) if until is not None else ()))
    texts = prompts if prompts is None else read_prompts(prompts, pipe)
    asked = _Asked(
        concepts, texts, latents, pictures, seed, chosen.draws, passed, batch_size, keep_pictures, cuts
    )
    here = None if are_workers(pipe) else asked(pipe)
    nothing = pipe.begin(asked) if here is None else here.nothing
    by = pipe.versions if here is None else None
    with RunFolder(out, nothing.settings, nothing, whole=pictures, by=by) as folder:
        _require_among(folder, wanted)
        if not _enough(folder.so_far, len(wanted), until):
            left = folder.so_far.left(wanted)
            if here is None:
                pieces = pieces_of(asked.batches([wanted]), left, len(pipe), PIECE, cuts)
                coming = parts(pipe, pieces, folder, in_order=until is not None)
            else:
                coming = here.parts(asked.batches(left), folder.keep)
            with (
                closing(coming),
                Progress(folder, len(wanted), checkpoint_every, progress, _how_sure) as done,
            ):
                for part in coming:
                    done(part)
                    if _enough(done.so_far, len(wanted), until):
                        break
        return finished(folder)


@dataclass(frozen=True)
class _Asked:
    """What is asked of every pipeline that takes part in a measurement, here or at a worker's place."""

    concepts: ConceptSet
    prompts: tuple[str, ...] | None
    latents: Float[Tensor, "pictures channels height width"] | None
    pictures: int
    seed: int
    draws: int
    passed: dict[str, Any]
    batch_size: int
    keep_pictures: int
    cuts: tuple[int, ...]

    def __call__(self, pipe: Any) -> "_Counting":
        return _Counting(self, pipe)

    def batches(self, todo: Iterable[range]) -> Iterator[range]:
        """These pictures by pipeline calls."""
        for numbers in todo:
            yield from batches(numbers.start, numbers.stop, self.batch_size, self.cuts)


class _Counting:
    """One pipeline at its part of a measurement."""

    def __init__(self, asked: _Asked, pipe: Any) -> None:
        self.asked, self.pipe, self.texts = asked, pipe, read_prompts(asked.prompts, pipe)
        _check_latents(pipe, asked)
        settings = settings_of(pipe, asked.concepts, self.texts, asked.latents, asked.seed) | asked.passed
        settings |= {"draws": asked.draws} if asked.draws > 1 else {}  # files from before say none: one
        self.nothing = Votes.empty(HeadMap.of(pipe), asked.concepts, settings)
        self.probe: ConceptProbe | None = None

    def __call__(self, numbers: range, folder: Path) -> Votes:
        """The votes of some pictures; those to be kept are saved in the folder."""

        def keep(name: str, picture: Any, prompt: str) -> None:
            save_picture(folder / "pictures" / f"{name}.png", picture, {"prompt": prompt})

        if not numbers:
            return self.nothing
        return sum(self.parts(self.asked.batches([numbers]), keep), start=self.nothing)

    def parts(
        self, todo: Iterable[range], keep: Callable[[str, Any, str], None]
    ) -> Generator[Votes, None, None]:
        """The votes of each batch, as it is done."""
        asked, settings = self.asked, self.nothing.settings
        self.probe = probe = self.probe or ConceptProbe(
            self.pipe, asked.concepts, asked.seed, draws=asked.draws
        )
        with hooked(self.pipe, probe), quiet(self.pipe):
            for numbers in todo:
                probe.begin(numbers)
                self._generate(numbers, keep)
                yield Votes.of_pictures(probe.take(), numbers, probe.head_map, asked.concepts, settings)

    def _generate(self, numbers: range, keep: Callable[[str, Any, str], None]) -> None:
        asked, texts = self.asked, self.texts
        kept = numbers[0] < asked.keep_pictures
        wanted = asked.passed | {"output_type": "pil" if kept else "latent"}
        images = generate(self.pipe, texts, asked.seed, numbers, latents=asked.latents, **wanted)
        for number, image in zip(numbers, images if kept else (), strict=kept):
            keep(f"{number:05d}", image, texts[number % len(texts)])


def finished(folder: RunFolder[Votes]) -> Relevance:
    """The relevance of all votes so far, saved beside them."""
    relevance = Relevance.from_votes(folder.so_far)
    relevance = replace(
        relevance, settings=relevance.settings | {"versions": folder.versions or dict(folder.by)}
    )
    if folder.path is not None:
        relevance.save(folder.path / "relevance.safetensors")
    return relevance


def _how_sure(votes: Votes) -> str:
    return f"split-half {np.median(split_half(votes)):.2f}"


def _enough(votes: Votes, pictures: int, until: float | int | None) -> bool:
    """Is the run over? Asked at multiples of 32 pictures only, whatever the batches and interruptions."""
    if len(votes) >= pictures:
        return True
    if until is None or len(votes.pictures) != 1 or len(votes) % BLOCKS:
        return False
    return bool(np.median(split_half(votes)) >= until)


def _check(
    pictures: int, numbers: range | None, batch_size: int, homeless: int, until: float | int | None
) -> None:
    if pictures < 1 or batch_size < 1:
        raise HeadwiseError(
            f"pictures={pictures} and batch_size={batch_size} were given; expected 1 or more of each."
        )
    if homeless:
        raise HeadwiseError(f"keep_pictures={homeless} pictures need a folder to go to. Give out=…")
    if numbers is not None and not numbers:
        raise HeadwiseError(
            f"numbers={numbers} holds no picture. Make fewer shards: at most as many as there are pictures."
        )
    if numbers is not None and until is not None:
        raise HeadwiseError(
            f"until={until} looks at all pictures, but only {said_of([numbers])} are counted here. "
            "Leave it out, or let workers share the run."
        )


def _require_among(folder: RunFolder[Votes], wanted: range) -> None:
    counted = folder.so_far.pictures
    if counted and wanted.start == 0 and counted[-1][1] > wanted.stop:
        raise RunMismatch(
            f"{folder.path} already counts {len(folder.so_far)} pictures, more than the {len(wanted)} asked "
            "for. Ask for as many or more, or give another folder."
        )
    if counted and not (wanted.start <= counted[0][0] and counted[-1][1] <= wanted.stop):
        raise RunMismatch(
            f"{folder.path} already counts {said_of([range(*pair) for pair in counted])}, not all of them "
            f"among {said_of([wanted])}. Ask for what it counts too, or give another folder."
        )


def _check_latents(pipe: Any, asked: _Asked) -> None:
    shape = latent_shape(pipe, asked.passed["height"], asked.passed["width"])
    given = asked.latents
    if given is not None and (len(given) < asked.pictures or tuple(given.shape[1:]) != shape):
        raise HeadwiseError(
            f"The latents have shape {tuple(given.shape)}; expected {(asked.pictures, *shape)}, "
            "unit noise for every picture."
        )
