r"""The probe: every head votes for the concept that its image queries attend to most.

At each call of the denoiser and each layer, one word w_c is sampled for every concept c, once or several
times (estimators.py). The words' tokens follow one start token in a single sequence, with keys K; with the
layer's own queries Q, for one image, one head and one sample,

    A    = softmax(Q Kᵀ/√d)                    "pixels tokens"
    a[c] = mean over the tokens of w_c of the mean over pixels of A
    vote = argmax_c a[c]                       the first one if there is a tie

The image is not changed: the hook reads Q and passes everything on. Only conditional rows vote.

The denoiser itself computes the keys of all concept words: it reads the words in place of the prompt in an
extra pass, which does not affect the image and has no attention mask (`DenoiserCall.encode_text`). In
cross-attention the keys depend only on the weights, so this happens at the first call of each image, and
again when weights or LoRA scales change (`modes.text_weights`). The words are embedded when the probe is
made; later changes to the text encoder have no effect. In joint attention the text passes through the layers
together with the pixels, so there is an extra pass after every call: with the pixels' keys K₀ and values V₀
of that call at the same layer, a word's tokens with queries q, keys k and values v continue with

    softmax(q [K₀ ; k]ᵀ/√d) [V₀ ; v]

as if each word were the whole prompt and pixels did not attend to text; tokens that a denoiser adds to the
text by itself are left out. In refiners, where the text first attends to itself alone, each word attends to
the start token and itself.

Samples depend on (seed, image) only, and the samples of an image's first n calls do not depend on how many
calls follow.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwise.errors import HookMisuse, LayerNotReached, ModelNotLoaded, NotFinite
from headwise.measuring.concepts import ConceptSet, WordEmbeddings
from headwise.measuring.word_samples import PackedWords, WordTokens, sample_words
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.hooks import Hook
from headwise.model.modes import require_no_cache, text_weights
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["ConceptProbe", "attention_to", "preferred", "token_attention"]


def token_attention(
    query: Float[Tensor, "images heads pixels dim"],
    key: Float[Tensor, "images heads tokens dim"],
    words: PackedWords,
) -> Float[Tensor, "images heads concepts word_tokens"]:
    """The attention of each head to each token of each concept's word, the mean over pixels.

    Args:
        query: The queries of one layer.
        key: The keys of the packed words at this layer, already scaled by 1/√d.
        words: Which tokens the keys belong to; where a word is shorter, the result must get weight 0.
    """
    scores = (query @ key.transpose(-1, -2)).masked_fill_(words.padding[:, None, None], -torch.inf)
    tokens = torch.softmax(scores, -1, dtype=words.token_weight.dtype).mean(-2)
    index = words.token_index.flatten(1)[:, None].expand(-1, tokens.shape[1], -1)
    return tokens.gather(-1, index).unflatten(-1, words.token_index.shape[1:])


def attention_to(
    query: Float[Tensor, "images heads pixels dim"],
    key: Float[Tensor, "images heads tokens dim"],
    words: PackedWords,
) -> Float[Tensor, "images heads concepts"]:
    """The pooled attention a[c] of each head to the word of each concept, the mean over its tokens."""
    return (token_attention(query, key, words) * words.token_weight[:, None]).sum(-1)


def preferred(
    attention: Float[Tensor, "images heads concepts"],
) -> Int[Tensor, "images heads"]:
    """The concept that each head attends to most; −1 where attention is not finite."""
    return torch.where(attention.isfinite().all(-1), attention.argmax(-1), -1)


class ConceptProbe(Hook):
    """A hook that lets every head vote.

        probe = ConceptProbe(pipe, ConceptSet.load("paper34"), seed=0)
        with hooked(pipe, probe):
            probe.begin([0, 1])
            pipe(["a dog", "a cat"])
        winners = probe.take()

    Args:
        pipe: The pipeline that will be hooked.
        concepts: The concepts to choose between.
        seed: The seed of the sampled words.
        embeddings: The result of `concepts.embed(pipe)`, if already computed.
        samples_per_call: How many words of each concept are sampled at each call and layer.
    """

    kinds = ("cross", "joint")
    once_per_step = True

    def __init__(
        self,
        pipe: Any,
        concepts: ConceptSet,
        seed: int = 0,
        embeddings: WordEmbeddings | None = None,
        samples_per_call: int = 1,
    ) -> None:
        self.samples_per_call = samples_per_call
        concepts.require_choice()
        self.concepts, self.seed, self.head_map = concepts, seed, HeadMap.of(pipe)
        self.denoiser = denoiser_of(pipe)
        self.tokens = WordTokens(embeddings or concepts.embed(pipe))
        self.keys: dict[int, Tensor] = {}  # of all words at each cross-attention layer
        self._keys_of: Any = None  # the weights that computed them
        self.pixels: dict[int, _Pixels] = {}  # of the current call, at each joint attention layer
        self.begin(None)

    def begin(self, pictures: Sequence[int] | None) -> None:
        """Discard the last images' votes, and expect images with these numbers (0, 1, … if None) next."""
        self.pictures = None if pictures is None else tuple(pictures)
        self.samples: np.ndarray | None = None
        self.winners: dict[tuple[int, int], Tensor] = {}
        self.packed: list[list[PackedWords]] = []  # of the current call, the samples of each layer
        self.votes: list[Tensor | None] = []

    def prepare(self, call: DenoiserCall) -> None:
        """Sample the words of this call, and compute the words' keys for cross-attention if needed."""
        self.head_map.require(call.head_map, "The probe", "the pipeline")
        require_no_cache(self.denoiser)
        self.votes = [None] * len(self.head_map)
        if not call.prompted:
            return
        if any(layer.kind == "cross" for layer in self.head_map):
            self._read_keys(call)
        if (call.step, 0) in self.winners:
            raise HookMisuse(
                "The probe saw a second pipeline call. Call `take` and `begin` for each pipeline call."
            )
        samples = self._samples(call)
        wide = torch.promote_types(self.tokens.embeddings.dtype, torch.float32)
        self.packed = [
            [
                self.tokens.pack(samples[:, n, layer]).to(call.device, wide)
                for n in range(self.samples_per_call)
            ]
            for layer in range(len(self.head_map))
        ]

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Vote, or in joint attention store what the vote needs, and attend unchanged."""
        with torch.no_grad():
            rows = query[site.conditional]
            if site.kind == "cross" and len(rows):
                self._vote(site, rows, self.keys[site.layer][None].expand(len(rows), -1, -1, -1))
            elif len(rows):
                pixel_key, pixel_value = (
                    _of_pixels(tensor[site.conditional], site.text) for tensor in (key, value)
                )
                self.pixels[site.layer] = (rows, pixel_key, pixel_value)
        return attend(query, key, value)

    def finish(self, call: DenoiserCall) -> None:
        """In joint attention, let the denoiser read the words with the stored pixels; record all votes."""
        if self.pixels:
            self._read_words(call, _ReadKeys(self.tokens.word_id, self.pixels, self._vote), call.pictures)
            self.pixels = {}
        for layer, votes in enumerate(self.votes):
            if votes is not None:
                self.winners[call.step, layer] = votes

    def take(self) -> Int[np.ndarray, "images steps samples all_heads"]:
        """Return the concept that each head preferred at each call and sample since `begin`, and reset."""
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
                "so nothing was counted for these images. Look for NaN in the latents, "
                "or run the model in a wider type (bfloat16 or float32)."
            )
        return winners

    def _read_keys(self, call: DenoiserCall) -> None:
        """Compute the words' keys for cross-attention, unless the weights are unchanged since last time."""
        weights = text_weights(self.denoiser, self.head_map)
        if call.step and weights == self._keys_of:
            return
        reading = _ReadKeys(self.tokens.word_id)
        self._read_words(call, reading, 1)
        self.keys, self._keys_of = reading.keys, weights

    def _read_words(self, call: DenoiserCall, reading: "_ReadKeys", rows: int) -> None:
        """Let the denoiser read all concept words, in one sequence, in place of the prompt."""
        if call.encode_text is None:
            raise HookMisuse("The probe was prepared outside `hooked`. Enter the context first.")
        width = self.tokens.embeddings.shape[-1]
        if call.width not in (0, width):
            raise ModelNotLoaded(
                f"The denoiser reads text {call.width} wide, the concept words' embeddings are {width} wide. "
                "Embed them with the same pipeline."
            )
        call.encode_text(reading, self.tokens.embeddings, rows, self.tokens.places)

    def attention(self, query: Tensor, key: Tensor, words: PackedWords) -> Tensor:
        """The attention of each head to each concept's word, averaged over its tokens."""
        return attention_to(query, key, words)

    def _vote(self, site: Site, query: Tensor, keys: Float[Tensor, "images heads all_tokens dim"]) -> None:
        """Store the concept that each head prefers in each sample of words at this layer."""
        votes = []
        for words in self.packed[site.layer]:
            key = torch.stack(
                [of_picture[:, tokens] for of_picture, tokens in zip(keys, words.tokens, strict=True)]
            )
            votes.append(preferred(self.attention(query, key, words)))
        self.votes[site.layer] = torch.stack(votes, 1)

    def _samples(self, call: DenoiserCall) -> Int[np.ndarray, "images samples layers concepts"]:
        numbers = self.pictures or tuple(range(call.pictures))
        if len(numbers) != call.pictures:
            raise HookMisuse(
                f"The probe expected {len(numbers)} images, but {call.pictures} rows carry a prompt. Pass "
                "`begin` the numbers of the images in the batch."
            )
        start, stop = call.step * self.samples_per_call, (call.step + 1) * self.samples_per_call
        if self.samples is None or self.samples.shape[1] < stop:
            # The number of calls is unknown; longer samples begin with the shorter ones.
            length, layers = max(64, 2 * stop), len(self.head_map)
            samples = [sample_words(self.seed, n, length, layers, self.tokens.counts) for n in numbers]
            self.samples = np.stack(samples)
        return self.samples[:, start:stop]


_Pixels = tuple[Tensor, Tensor, Tensor]  # queries, keys and values


class _ReadKeys(Hook):
    """A hook that collects the keys of concept words while the denoiser reads these in place of the prompt.

    Args:
        word_id: The word that each token belongs to, −1 for the start token.
        pixels: The queries, keys and values of pixels at each joint attention layer.
        on_keys: Called in joint attention with the site, the pixels' queries and the words' keys, scaled.

    Attributes:
        keys: The words' keys at each cross-attention layer, scaled by 1/√d.
    """

    kinds = ("cross", "text", "refiner")

    def __init__(
        self,
        word_id: Int[Tensor, " all_tokens"],
        pixels: dict[int, _Pixels] | None = None,
        on_keys: Callable[[Site, Tensor, Tensor], None] | None = None,
    ) -> None:
        self.word_id, self.pixels, self.on_keys = word_id, pixels or {}, on_keys
        self.keys: dict[int, Tensor] = {}

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store the keys, or let each word attend to the start token, itself and, if joint, the pixels."""
        if site.kind == "cross":
            self.keys[site.layer] = key[0] * key.shape[-1] ** -0.5
            return attend(query, key, value)
        words = slice(site.text.stop - len(self.word_id), site.text.stop)  # after the registers
        key, value = key[..., words, :], value[..., words, :]
        word_id = self.word_id.to(query.device)
        allowed = (word_id[:, None] == word_id) | (word_id == -1)
        before = site.text.stop - site.text.start - len(self.word_id)
        word_query = query[..., before : before + len(word_id), :]
        if site.kind == "text":
            pixel_query, pixel_key, pixel_value = self.pixels[site.layer]
            if self.on_keys is not None:
                self.on_keys(site, pixel_query, key * pixel_query.shape[-1] ** -0.5)
            allowed = torch.cat([allowed.new_ones(len(word_id), pixel_key.shape[-2]), allowed], 1)
            key, value = torch.cat([pixel_key, key], -2), torch.cat([pixel_value, value], -2)
        output = torch.nn.functional.scaled_dot_product_attention(word_query, key, value, attn_mask=allowed)
        behind = query.shape[-2] - before - len(word_id)
        return torch.nn.functional.pad(output, (0, 0, before, behind))  # only words are read


def _of_pixels(tensor: Tensor, text: slice) -> Tensor:
    """The keys or values of the pixels, copied so that the text's can be freed."""
    return (tensor[..., : text.start, :] if text.start else tensor[..., text.stop :, :]).contiguous()
