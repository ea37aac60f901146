r"""Predicting a concept's relevance from its words: kernel ridge regression over measured concepts.

With x[c] the mean embedding of a concept's words, standardised, and K[c, d] = x[c]·x[d] / dim,

    R̂[c] = R̄ + K[c, others] (K[others, others] + λ 1)⁻¹ (R[others] − R̄)

where R̄ is the mean over the other concepts, and λ is chosen on them by leaving out one more.
"""

from functools import partial

import numpy as np
from jaxtyping import Float

from headwise.measuring.concepts import WordEmbeddings

__all__ = ["left_out_error", "nearest", "predict_relevance", "similarity"]

RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)


def similarity(embeddings: WordEmbeddings) -> Float[np.ndarray, "concepts concepts"]:
    """The kernel K: the similarity of concepts by the mean embedding of their words."""
    texts = np.stack(
        [np.mean([word.cpu().double().mean(0).numpy() for word in words], 0) for words in embeddings.words]
    )
    texts = (texts - texts.mean(0)) / (texts.std(0) + 1e-12)
    return texts @ texts.T / texts.shape[1]


def nearest(kernel: Float[np.ndarray, "concepts concepts"], concept: int) -> int:
    """The index of the most similar other concept."""
    others = kernel[concept].copy()
    others[concept] = -np.inf
    return int(others.argmax())


def predict_relevance(
    kernel: Float[np.ndarray, "concepts concepts"], values: Float[np.ndarray, "concepts all_heads"]
) -> Float[np.ndarray, "concepts all_heads"]:
    """Each concept's relevance, predicted from the others'; λ is chosen by leaving out one more.

    Args:
        kernel: The similarity K of all concepts.
        values: The measured relevance R.
    """
    predicted = []
    for c in range(len(values)):
        others = np.delete(np.arange(len(values)), c)
        k, r = kernel[np.ix_(others, others)], values[others]
        ridge = min(RIDGES, key=partial(left_out_error, k, r))
        weights = kernel[c, others] @ np.linalg.inv(k + ridge * np.eye(len(k)))
        predicted.append(r.mean(0) + weights @ (r - r.mean(0)))
    return np.stack(predicted)


def left_out_error(
    kernel: Float[np.ndarray, "concepts concepts"],
    values: Float[np.ndarray, "concepts all_heads"],
    ridge: float,
) -> float:
    """The total squared error of predicting each row from the others, in closed form."""
    centred = values - values.mean(0)
    hat = kernel @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    return float((((centred - hat @ centred) / (1 - np.diag(hat))[:, None]) ** 2).sum())
