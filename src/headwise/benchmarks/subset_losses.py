r"""What was lost when random subsets of heads were weakened, and how well something predicts it.

An estimator gives every head a value v[h]; it predicts that a subset S of k heads loses Σ_{h ∈ S} v[h]. Large
subsets lose more whatever their heads, so prediction and loss are compared given the size: with a and b what
a regression on 1, k leaves of the two,

    agreement    ρ = ⟨a, b⟩ / |a| |b|                the partial correlation; 0 of heads that are all alike
    split-half   the same of the losses of two halves of the prompts, r, the mean over halvings
    reliability  2r / (1 + r)                        of the losses of all prompts (Spearman-Brown)
    ceiling      √reliability                        what the true losses without noise would reach

A regression on k alone leaves what is curved in k, which no sum over heads can predict and which both halves
share; `degree` adds powers of k. Intervals are by bootstrap over subsets.

The losses themselves give the values that predict best, at their cost: ridge regression, with what all heads
share not penalised. It is scored on subsets that it has not seen, but on the same prompts, so it may come
above the ceiling, which is that of other prompts.

References:
    | Correlation calculated from faulty data (Spearman, 1910)
    | https://doi.org/10.1111/j.2044-8295.1910.tb00206.x
    | Ridge regression: biased estimation for nonorthogonal problems (Hoerl and Kennard, 1970)
    | https://doi.org/10.1080/00401706.1970.10488634
    | Datamodels: predicting predictions from training data (Ilyas et al., 2022)
    | https://arxiv.org/abs/2202.00622
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from headwise.errors import HeadwiseError, UnreadableFile
from headwise.files import read_whole, write_whole
from headwise.intervals import Interval, bootstrap_interval
from headwise.runs.scores import Scores

__all__ = [
    "SubsetLosses", "ceiling_of", "partial_correlation", "random_subsets", "reliability_of", "ridge_values",
    "split_half",
]  # fmt: skip

SMALLEST, LARGEST = 0.05, 0.5  # shares of the heads
HALVINGS = 100  # at most; of four prompts there are three
PENALTIES = np.logspace(-3, 4, 29)  # of ridge regression, in mean squared singular values
DIGITS = 5  # to which scores are the same in batches of any size
TINY = 1e-12  # a variance that is rounding, of variables with variance 1
FEWEST = 6  # subsets, of which half can be fitted


def random_subsets(all_heads: int, count: int = 200, seed: int = 0) -> Bool[np.ndarray, "subsets all_heads"]:
    """Random subsets of heads, with sizes log-uniform from 5 % to 50 % of the heads.

    Args:
        all_heads: The number of heads of the model.
        count: The number of subsets; the first n of more are those of `count=n`.
        seed: The only source of chance.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    log_sizes = np.log(SMALLEST * all_heads), np.log(LARGEST * all_heads)
    subsets = np.zeros((count, all_heads), bool)
    for subset in subsets:
        size = max(1, round(np.exp(generator.uniform(*log_sizes))))
        subset[generator.permutation(all_heads)[:size]] = True
    return subsets


@dataclass(frozen=True, eq=False)
class SubsetLosses:
    """What the pictures of a concept's prompts lost when subsets of heads were weakened.

    Args:
        subsets: Which heads each subset has.
        loss: The score of the plain picture less that of the picture with the subset weakened.
        plain: The score of the plain picture.
        settings: How the pictures were made and scored.
    """

    subsets: Bool[np.ndarray, "subsets all_heads"]
    loss: Float[np.ndarray, "subsets prompts"]
    plain: Float[np.ndarray, " prompts"]
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Scores) -> "SubsetLosses":
        """The losses of the subsets that are scored for all prompts; none before the plain pictures are.

        Args:
            scores: Along the axes seed, prompt and subset, of which number 0 is the plain picture.
        """
        values, settings = scores.values.mean(0).T, scores.settings
        plain, loss = values[0], values[0] - values[1:]
        there = np.isfinite(loss).all(1)
        subsets = random_subsets(settings["all_heads"], len(loss), settings["subset_seed"])
        return cls(subsets[there], loss[there], plain, settings)

    @property
    def sizes(self) -> Int[np.ndarray, " subsets"]:
        """The number of heads of each subset."""
        return self.subsets.sum(1)

    @property
    def mean(self) -> Float[np.ndarray, " subsets"]:
        """The loss of each subset, the mean over prompts."""
        return self.loss.mean(1)

    def agreement(self, values: Float[np.ndarray, " all_heads"], degree: int = 1) -> Interval:
        """The partial correlation of the predicted and the true loss given the size.

        Args:
            values: What an estimator gives each head, such as the concept's row of a relevance.
            degree: The highest power of the size that is given.
        """
        return partial_correlation(self.subsets @ values, self.mean, self.sizes, degree)

    def split_half(self, degree: int = 1) -> Interval:
        """How well the losses of half of the prompts agree with those of the other half (`split_half`)."""
        return split_half(self.loss, self.sizes, degree)

    def ridge(self) -> Float[np.ndarray, " subsets"]:
        """The predicted loss of each subset, by ridge regression on every second subset, without itself."""
        _require_enough(self.subsets)
        predicted, even = np.empty(len(self.subsets)), np.arange(len(self.subsets)) % 2 == 0
        for half in (even, ~even):
            predicted[half] = self.subsets[half] @ ridge_values(self.subsets[~half], self.mean[~half])
        return predicted

    def as_json(self) -> dict[str, Any]:
        """JSON-able: subsets as hexadecimal masks, the first head in the highest bit; five decimals."""
        return {
            "all_heads": self.subsets.shape[1],
            "subsets": [np.packbits(subset).tobytes().hex() for subset in self.subsets],
            "loss": np.round(self.loss, DIGITS).tolist(),
            "plain": np.round(self.plain, DIGITS).tolist(),
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: str | Path = "The JSON") -> "SubsetLosses":
        """Read what `as_json` returned.

        Args:
            content: The JSON object.
            path: Where it came from, for the error.

        Raises:
            UnreadableFile: Something is missing, or of another shape.
        """
        try:
            heads, plain = int(content["all_heads"]), np.array(content["plain"], float)
            packed = np.array([list(bytes.fromhex(subset)) for subset in content["subsets"]], np.uint8)
            subsets = np.unpackbits(packed.reshape(-1, -(-heads // 8)), axis=1, count=heads).astype(bool)
            loss = np.array(content["loss"], float).reshape(len(subsets), len(plain))
            return cls(subsets, loss, plain, dict(content.get("settings", {})))
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{path} holds no subset losses ({error!r}). Give what `SubsetLosses.save` wrote."
            ) from None

    def save(self, path: str | Path) -> None:
        """Write a JSON file, completely or not at all."""
        write_whole(path, (json.dumps(self.as_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "SubsetLosses":
        """Read what `save` wrote; UnreadableFile if it is something else."""
        try:
            content = json.loads(read_whole(path, "subset losses"))
        except ValueError as error:
            raise UnreadableFile(
                f"{path} is not JSON ({error}). Give what `SubsetLosses.save` wrote."
            ) from None
        return cls.from_json(content if isinstance(content, dict) else {}, path)


def partial_correlation(
    predicted: Float[np.ndarray, " subsets"],
    loss: Float[np.ndarray, " subsets"],
    size: Int[np.ndarray, " subsets"],
    degree: int = 1,
    given: Float[np.ndarray, "subsets columns"] | None = None,
) -> Interval:
    """The correlation of predicted and true loss given the size; 0 where the size says all of one of them.

    Args:
        predicted: The predicted loss of each subset, in any unit.
        loss: The true one.
        size: The number of heads of each subset.
        degree: The highest power of the size that is given.
        given: What else is given, such as the losses of other concepts; what is left is this concept's alone.

    Raises:
        HeadwiseError: There are fewer than 6 subsets.
    """
    known = _known(size, degree, given)
    cases = _moments(np.concatenate([_scaled(predicted[:, None]), _scaled(loss[:, None])], 1), known)
    first, second = np.eye(2)
    return bootstrap_interval(cases, lambda mean: _correlation(_left_over(mean, 2), first, second))


def split_half(
    loss: Float[np.ndarray, "subsets prompts"],
    size: Int[np.ndarray, " subsets"],
    degree: int = 1,
    given: Float[np.ndarray, "subsets columns"] | None = None,
) -> Interval:
    """The partial correlation of the losses of two halves of the prompts, the mean over halvings.

    Args:
        loss: The loss of each subset for each prompt.
        size, degree, given: As in `partial_correlation`.

    Returns:
        The mean over all halvings, or over 100 random ones where there are more; nan of a single prompt.
    """
    prompts = loss.shape[1]
    if prompts < 2:
        return Interval(math.nan, math.nan, math.nan, len(loss))
    halves = _halves(prompts)

    def statistic(mean: Float[np.ndarray, "moments moments"]) -> float:
        left = _left_over(mean, prompts)
        return float(np.mean([_correlation(left, half, 1 - half) for half in halves]))

    return bootstrap_interval(_moments(_scaled(loss), _known(size, degree, given)), statistic)


def reliability_of(split_half: Interval) -> Interval:
    """The reliability of the losses of all prompts, from how two halves of them agree (Spearman-Brown)."""
    return _each(split_half, lambda r: -math.inf if r == -1 else 2 * r / (1 + r))


def ceiling_of(split_half: Interval) -> Interval:
    """The agreement of the losses without noise with the noisy ones: √reliability, 0 where it is below 0."""
    return _each(reliability_of(split_half), lambda r: 0.0 if r <= 0 else math.sqrt(r))


def ridge_values(
    subsets: Bool[np.ndarray, "subsets all_heads"], loss: Float[np.ndarray, " subsets"]
) -> Float[np.ndarray, " all_heads"]:
    """The value of each head by ridge regression of the losses on which heads the subsets have.

    With Z = (1, size) not penalised, so that heads are shrunk to their common value and not to zero, w
    minimises |y − Zβ − Xw|² + λ|w|². The penalty λ has the least squared error of leaving out one subset,
    (y − ŷ)ᵢ / (1 − hatᵢᵢ).

    Args:
        subsets: Which heads each subset has.
        loss: The loss of each subset.
    """
    x = subsets.astype(float)
    z = np.stack([np.ones(len(x)), x.sum(1)], 1)
    of_z, _ = np.linalg.qr(z)
    left_x, left_y = (each - of_z @ (of_z.T @ each) for each in (x, loss))
    u, singular, vt = np.linalg.svd(left_x, full_matrices=False)
    along, squares = u.T @ left_y, singular**2
    best, w = math.inf, np.zeros(x.shape[1])
    for penalty in PENALTIES * squares.mean():
        kept = squares / (squares + penalty)
        hat = (of_z**2).sum(1) + (u**2) @ kept
        error = float(np.mean(((left_y - u @ (kept * along)) / (1 - hat)) ** 2))
        if error < best:
            best, w = error, vt.T @ (singular / (squares + penalty) * along)
    common = np.linalg.lstsq(z, loss - x @ w, rcond=None)[0][1]
    return w + common


def _require_enough(subsets: np.ndarray) -> None:
    if len(subsets) < FEWEST:
        raise HeadwiseError(
            f"There are losses of {len(subsets)} subsets; predictions are scored on {FEWEST} or more. Weaken "
            "more subsets."
        )


def _each(interval: Interval, of: Callable[[float], float]) -> Interval:
    """A growing function of a number, and of the ends of its interval."""
    return Interval(of(interval.value), of(interval.low), of(interval.high), interval.n)


def _scaled(values: Float[np.ndarray, "subsets variables"]) -> Float[np.ndarray, "subsets variables"]:
    """With mean 0 and, all variables together, variance 1, so that rounding is small."""
    centred = values - values.mean(0)
    return centred / (centred.std() or 1.0)


def _known(
    size: Int[np.ndarray, " subsets"], degree: int, given: Float[np.ndarray, "subsets columns"] | None
) -> Float[np.ndarray, "subsets known"]:
    """The powers of the size, and what else is given, each with mean 0 and variance 1."""
    _require_enough(size)
    scaled = _scaled(size[:, None].astype(float))
    columns = [scaled**power for power in range(1, degree + 1)]
    columns += [] if given is None else list(given.T[:, :, None])
    return np.concatenate([_scaled(column) for column in columns], 1)


def _moments(
    variables: Float[np.ndarray, "subsets variables"], known: Float[np.ndarray, "subsets known"]
) -> Float[np.ndarray, "subsets moments moments"]:
    """The products of 1, the variables and what is known; correlations need only their mean."""
    x = np.concatenate([np.ones((len(known), 1)), variables, known], 1)
    return x[:, :, None] * x[:, None, :]


def _left_over(
    mean: Float[np.ndarray, "moments moments"], variables: int
) -> Float[np.ndarray, "variables variables"]:
    """The covariance of what a regression on what is known leaves of the variables."""
    covariance = mean[1:, 1:] - np.outer(mean[0, 1:], mean[0, 1:])
    across = covariance[:variables, variables:]
    inverse = np.linalg.pinv(covariance[variables:, variables:], rcond=TINY, hermitian=True)
    return covariance[:variables, :variables] - across @ inverse @ across.T


def _correlation(
    covariance: Float[np.ndarray, "variables variables"],
    a: Float[np.ndarray, " variables"],
    b: Float[np.ndarray, " variables"],
) -> float:
    """The correlation of two weighted sums of variables; 0 where one of them is constant."""
    squares = a @ covariance @ a, b @ covariance @ b
    return float(a @ covariance @ b / math.sqrt(squares[0] * squares[1])) if min(squares) > TINY else 0.0


def _halves(prompts: int) -> list[Float[np.ndarray, " prompts"]]:
    """One half of the prompts for each halving, as 1 and 0: all halvings, or random ones of many."""
    size, odd = prompts // 2, prompts % 2
    if math.comb(prompts, size) // (1 if odd else 2) <= HALVINGS:
        chosen = [half for half in itertools.combinations(range(prompts), size) if odd or 0 in half]
    else:
        generator = np.random.Generator(np.random.Philox(0))
        chosen = [tuple(generator.permutation(prompts)[:size]) for _ in range(HALVINGS)]
    return [np.isin(np.arange(prompts), half).astype(float) for half in chosen]
