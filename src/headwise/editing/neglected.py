r"""Several subjects without a gradient: strengthen the subject that gets least attention in the first calls.

With a[h, x, s] the attention of head h at position x to the token of subject s, and the relevance of the
subject's concept as weights, W[s, h] = max(R[c_s, h], 0),

    A[s] = Σ_h W[s, h] · mean over the first calls of max_x a[h, x, s]  /  Σ_h W[s, h]

and the neglected subject of an image is the one with the smallest A. From the next call on, its word is
strengthened in the heads of its concept: by `amplify` if relevance is by effect, by `strengthen` if by votes.

References:
    | Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models
    | (Chefer et al., 2023), which moves the latents of the neglected subject by a gradient
    | https://arxiv.org/abs/2301.13826
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwise.errors import BadStrength, HeadwiseError, HookMisuse
from headwise.measuring.relevance import Relevance
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site
from headwise.steering.dose import amplify
from headwise.steering.steer import Steer, strengthen

__all__ = ["StrengthenNeglected"]


class StrengthenNeglected(Hook):
    """A hook that finds the neglected subject of each image in the first calls and then strengthens it.

        concepts = {"dog": "Animals", "car": "Vehicles"}
        with hooked(pipe, StrengthenNeglected([["dog", "car"]], relevance, concepts)):
            pipe("a dog and a car")

    It works on every model family whose heads can be measured, and needs no gradient.

    Args:
        words: The subjects of each image of the batch; one list for all images, or one for each.
        relevance: Relevance measured on this model, by effect or by votes.
        concepts: The concept of each subject, or one name for all.
        dial: How much the neglected subject is strengthened: the dial of `amplify` by effect, the strength of
            `strengthen` by votes; 0 leaves images unchanged.
        after: The fraction of the denoiser calls in which subjects are compared, above 0 and below 1; the
            word is strengthened in the rest.

    Attributes:
        neglected: The neglected subject of each image of the last pipeline call.

    Raises:
        HeadwiseError: No subject was given, or a subject has no concept.
        UnknownConcept, BadStrength: A concept was not measured, or a number is out of range.
    """

    once_per_step = True

    def __init__(
        self,
        words: Sequence[Sequence[str]],
        relevance: Relevance,
        concepts: Mapping[str, str] | str,
        *,
        dial: float | int = 1.0,
        after: float | int = 0.2,
    ) -> None:
        if any(not of_image for of_image in words) or not words:
            raise HeadwiseError("No subject was given. Give one or more words of each prompt.")
        if not 0 < after < 1:
            raise BadStrength(f"after={after} was given; expected a fraction of the calls between 0 and 1.")
        self.words, self.relevance, self.after = [tuple(of_image) for of_image in words], relevance, after
        rule = amplify if relevance.kind == "effect" else strengthen
        self._factors, self._weights = {}, {}
        for word in {word for of_image in words for word in of_image}:
            concept = concepts if isinstance(concepts, str) else concepts.get(word)
            if concept is None:
                raise HeadwiseError(f"No concept was given for {word!r}. Name one for each subject.")
            self._factors[word] = rule(relevance, None, concept, dial).factors[0]
            self._weights[word] = np.maximum(relevance[concept], 0)
        self.neglected: list[str] = []
        self._steer: Steer | None = None

    def at_random_heads(self) -> "StrengthenNeglected":
        """The control: the same hook with its factors permuted over heads."""
        permuted = copy(self)
        permuted._factors = {
            word: Steer(factors[None]).control("random heads").factors[0]
            for word, factors in self._factors.items()
        }
        return permuted

    def prepare(self, call: DenoiserCall) -> None:
        """Start comparing at the first call, and choose the neglected subjects after `after` of the calls."""
        if not call.prompted:
            if self._steer is not None:
                self._steer.prepare(call)
            return
        if call.step == 0:
            self._begin(call)
        if self._steer is None and call.step >= math.ceil(self.after * call.steps):
            self._choose()
        if self._steer is not None:
            self._steer.prepare(call)

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Measure the attention to the subjects, or attend with the neglected one strengthened."""
        if self._steer is not None:
            return self._steer(attend, site, query, key, value)
        if site.call.prompted:
            with torch.no_grad():
                self._look(attend, site, query, key, value)
        return attend(query, key, value)

    def _begin(self, call: DenoiserCall) -> None:
        if len(self.words) not in (1, call.pictures) or not call.prompts:
            raise HookMisuse(
                f"Subjects of {len(self.words)} images were given, but there are {call.pictures} images. "
                "Give the subjects of one image or of each, and call the pipeline with `prompt`."
            )
        self.relevance.require(call.head_map)
        self._subjects = self.words * (call.pictures // len(self.words))
        most = max(map(len, self._subjects))
        self._steer, self._peaks = None, torch.zeros(call.pictures, call.head_map.all_heads, most)
        self._token = torch.zeros(call.pictures, call.tokens, most)
        for picture, of_image in enumerate(self._subjects):
            for s, word in enumerate(of_image):
                self._token[picture, call.positions(picture, word)[-1], s] = 1

    def _look(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Add each head's largest attention over positions to each subject."""
        marks = value.new_zeros(len(value), 1, key.shape[-2], self._token.shape[-1])
        marks[site.conditional, 0, site.text] = self._token[list(site.call.picture[site.conditional])].to(
            marks
        )
        shares = attend(query, key, marks.expand(-1, value.shape[1], -1, -1))[site.conditional]
        start, stop = site.call.head_map.slices[site.layer]
        self._peaks[:, start:stop] += shares.amax(2).float().cpu()

    def _choose(self) -> None:
        """Find the least attended subject of each image, and make the steering of its word."""
        self.neglected = []
        for of_image, peaks in zip(self._subjects, self._peaks.double().numpy(), strict=True):
            attended = [_mean(peaks[:, s], self._weights[word]) for s, word in enumerate(of_image)]
            self.neglected.append(of_image[int(np.argmin(attended))])
        factors = np.stack([self._factors[word] for word in self.neglected])
        self._steer = Steer(factors, list(self.neglected), head_map=self.relevance.head_map)


def _mean(peaks: Float[np.ndarray, " all_heads"], weights: Float[np.ndarray, " all_heads"]) -> float:
    """The weighted mean over heads."""
    return float(peaks @ weights / max(weights.sum(), np.finfo(np.float64).tiny))
