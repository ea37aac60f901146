r"""A concept's relevance foretold from its words: ridge regression over the concepts that were measured.

With x[c] the mean embedding of a concept's words, standardised, and K[c, d] = x[c]·x[d] / dim,

    R̂[c] = R̄ + K[c, others] (K[others, others] + λ 1)⁻¹ (R[others] − R̄)

where R̄ is the mean of the others and λ is chosen among them, by leaving out one more.
"""

from functools import partial

import numpy as np
from jaxtyping import Float

from headwise.measuring.concepts import WordEmbeddings

__all__ = ["foretold", "left_out_error", "likeness", "nearest"]

RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)


def likeness(embeddings: WordEmbeddings) -> Float[np.ndarray, "concepts concepts"]:
    """How alike concepts are by the mean embedding of their words."""
    texts = np.stack(
        [np.mean([word.double().mean(0).cpu().numpy() for word in words], 0) for words in embeddings.words]
    )
    texts = (texts - texts.mean(0)) / (texts.std(0) + 1e-12)
    return texts @ texts.T / texts.shape[1]


def nearest(alike: Float[np.ndarray, "concepts concepts"], concept: int) -> int:
    """The concept that another is most alike."""
    others = alike[concept].copy()
    others[concept] = -np.inf
    return int(others.argmax())


def foretold(
    alike: Float[np.ndarray, "concepts concepts"], values: Float[np.ndarray, "concepts all_heads"]
) -> Float[np.ndarray, "concepts all_heads"]:
    """Each row from the others; the ridge is chosen without the row, by leaving out one more."""
    found = []
    for concept in range(len(values)):
        others = np.delete(np.arange(len(values)), concept)
        kernel, known = alike[np.ix_(others, others)], values[others]
        ridge = min(RIDGES, key=partial(left_out_error, kernel, known))
        weights = alike[concept, others] @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
        found.append(known.mean(0) + weights @ (known - known.mean(0)))
    return np.stack(found)


def left_out_error(
    kernel: Float[np.ndarray, "concepts concepts"],
    known: Float[np.ndarray, "concepts all_heads"],
    ridge: float,
) -> float:
    """The squared error of every row foretold from the others, in closed form."""
    centred = known - known.mean(0)
    hat = kernel @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    return float((((centred - hat @ centred) / (1 - np.diag(hat))[:, None]) ** 2).sum())
