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

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwise.errors import HookMisuse, LayerNotReached, ModelNotLoaded, NotFinite
from headwise.measuring.concepts import ConceptSet, WordEmbeddings
from headwise.measuring.word_samples import PackedWords, WordTokens, sample_words
from headwise.model.heads import HeadMap
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["ConceptProbe", "attention_to", "preferred", "token_attention"]


def token_attention(
    query: Float[Tensor, "pictures heads pixels dim"],
    key: Float[Tensor, "pictures heads tokens dim"],
    shown: PackedWords,
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
    shown: PackedWords,
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
        samples_per_call: How often a word of each concept is sampled at each call and layer.
    """

    kinds = ("cross", "joint", "text")

    def __init__(
        self,
        pipe: Any,
        concepts: ConceptSet,
        seed: int = 0,
        embeddings: WordEmbeddings | None = None,
        samples_per_call: int = 1,
    ) -> None:
        self.samples_per_call = samples_per_call
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
        self.shown: list[list[PackedWords]] = []  # of the call under way, each layer's draws
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
            [self.tokens.pack(drawn[:, n, layer]).to(call.device, wide) for n in range(self.samples_per_call)]
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
        start, stop = call.step * self.samples_per_call, (call.step + 1) * self.samples_per_call
        if self.drawn is None or self.drawn.shape[1] < stop:
            # How many calls will come is not known; longer draws begin as shorter ones.
            often, layers = max(64, 2 * stop), len(self.head_map)
            drawn = [sample_words(self.seed, n, often, layers, self.tokens.counts) for n in numbers]
            self.drawn = np.stack(drawn)
        return self.drawn[:, start:stop]


def _pixels(tensor: Tensor, text: slice) -> Tensor:
    """The keys or values of the pixels, copied so that the text's can be forgotten."""
    return (tensor[..., : text.start, :] if text.start else tensor[..., text.stop :, :]).contiguous()
