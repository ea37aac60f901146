r"""Estimators: how many votes each image contributes, and at what cost.

The vote of a head depends on an image, on a denoiser call, and on the one word that is sampled for each
concept. An image costs a pass of the denoiser for every call; another sample of words costs next to nothing,
as only the pooled products of queries and keys are computed again. So it pays to sample several times,

    n[c, h] = Σ over images, calls and samples of [head h votes for c],

and to generate more images with fewer calls each. Expectations stay the same; only the sampling noise is
averaged out.

`headwise benchmark estimators` compares estimators at equal cost; docs/evidence.md has the results.
"""

from dataclasses import dataclass
from typing import Literal

from headwise.errors import HeadwiseError

__all__ = ["LEAN", "PAPER", "Estimator", "Named", "estimator_of"]

Named = Literal["lean", "paper"]


@dataclass(frozen=True)
class Estimator:
    """How many votes each image contributes.

    Args:
        samples_per_call: How many words are sampled for each concept at each call and layer; each sample
            gives a vote.
        num_inference_steps: The denoiser calls per image, unless `measure` is called with another number.
    """

    samples_per_call: int
    num_inference_steps: int

    def __post_init__(self) -> None:
        if self.samples_per_call < 1 or self.num_inference_steps < 1:
            raise HeadwiseError(
                f"samples_per_call={self.samples_per_call} and num_inference_steps="
                f"{self.num_inference_steps} were given; expected 1 or more of each."
            )


LEAN = Estimator(samples_per_call=8, num_inference_steps=10)
# Park et al., 2024, https://arxiv.org/abs/2412.02237
PAPER = Estimator(samples_per_call=1, num_inference_steps=50)


def estimator_of(estimator: Estimator | str) -> Estimator:
    """The estimator with this name, "lean" or "paper"; an `Estimator` is returned unchanged.

    Raises:
        HeadwiseError: No estimator has this name.
    """
    if isinstance(estimator, Estimator):
        return estimator
    named = {"lean": LEAN, "paper": PAPER}
    if estimator not in named:
        raise HeadwiseError(f"{estimator!r} is not an estimator. Give 'lean', 'paper' or an Estimator.")
    return named[estimator]
