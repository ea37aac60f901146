r"""Estimators: how relevance is measured at what price.

The vote of a head depends on a picture, on a denoiser call, and on the one word that is drawn for each
concept. A picture costs a pass of the denoiser for every call; another draw of words costs next to nothing,
as only the pooled products of queries and keys are computed once more. So it pays to draw several times,

    n[c, h] = Σ over pictures, calls and draws of [head h votes for c],

and to make more pictures of fewer calls. Expectations stay what they were; only the noise of the drawing is
averaged away.

`headwise benchmark estimators` compares what was tried at equal cost; docs/evidence.md says what came of it.
"""

from dataclasses import dataclass
from typing import Literal

from headwise.errors import HeadwiseError

__all__ = ["LEAN", "PAPER", "Estimator", "Named", "estimator_of"]

Named = Literal["lean", "paper"]


@dataclass(frozen=True)
class Estimator:
    """How much is seen of a picture.

    Args:
        samples_per_call: Words sampled for each concept at each call and layer; each is a vote.
        num_inference_steps: Of a picture, where nothing else is asked for.
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
PAPER = Estimator(
    samples_per_call=1, num_inference_steps=50
)  # Park et al., 2024, https://arxiv.org/abs/2412.02237


def estimator_of(estimator: Estimator | str) -> Estimator:
    """An estimator, or one of the two that have a name.

    Raises:
        HeadwiseError: It names none.
    """
    if isinstance(estimator, Estimator):
        return estimator
    named = {"lean": LEAN, "paper": PAPER}
    if estimator not in named:
        raise HeadwiseError(f"{estimator!r} is no estimator. Give 'lean', 'paper' or an Estimator.")
    return named[estimator]
