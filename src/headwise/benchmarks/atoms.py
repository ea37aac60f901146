r"""Atoms: the single statements of a prompt, each of which can be checked in an image.

"Three red dogs" states that there are dogs, that there are three and that they are red. With p_i the
probability that a scorer gives to the right description of atom i among wrong ones, in which sibling words
replace its word ("two red dogs"), and h_i = 1 if no other is more likely, a prompt of n atoms scores

    c_i = Π_{j ∈ parents(i)} h_j c_j     q_i = c_i p_i
    AM  = Σ q_i / n                      GM  = (Π q_i)^{1/n}

which are Soft-TIFA's means over atoms: the arithmetic mean measures how much of the prompt the image shows,
the geometric mean whether it shows all of it. The factor c is the Davidsonian Scene Graph's: an atom counts
only if the atoms that it depends on hold, since a dog that is absent cannot be red. Soft-TIFA queries a model
that answers questions; here p is CLIP's, as the "certainty" of `clip_scorer.scoring`.

References:
    | GenEval 2: Addressing Benchmark Drift in Text-to-Image Evaluation (Kamath et al., 2025)
    | https://arxiv.org/abs/2512.16853
    | Davidsonian Scene Graph: Improving Reliability in Fine-grained Evaluation for Text-to-Image Generation
    | (Cho et al., 2023), https://arxiv.org/abs/2310.18235
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts.atoms import Atom, AtomPrompt

__all__ = ["SoftTIFA", "counted", "score_atoms", "soft_tifa"]


class SoftTIFA(NamedTuple):
    """How much of its prompt an image shows, 0 … 1.

    Args:
        am: The arithmetic mean over its atoms.
        gm: The geometric mean over its atoms.
    """

    am: float
    gm: float


def score_atoms(
    scorer: CLIPScorer, pictures: Sequence[Any], prompts: Sequence[AtomPrompt]
) -> list[tuple[Float[np.ndarray, " atoms"], Bool[np.ndarray, " atoms"]]]:
    """For each image, the probability p of the right text of each atom, and whether the atom holds, h.

    Args:
        scorer: A CLIP model that compares images with texts.
        pictures: The images.
        prompts: The prompt of each image.
    """
    cases = [(picture, atom) for picture, each in zip(pictures, prompts, strict=True) for atom in each.atoms]
    texts = [atom.texts for _, atom in cases]
    probabilities = iter(scorer.probabilities([picture for picture, _ in cases], texts))
    by_prompt = [[next(probabilities) for _ in prompt.atoms] for prompt in prompts]
    return [
        (np.array([float(p[0]) for p in each]), np.array([bool(p[0] >= p.max()) for p in each]))
        for each in by_prompt
    ]


def counted(atoms: Sequence[Atom], holds: Bool[np.ndarray, " atoms"]) -> Bool[np.ndarray, " atoms"]:
    """Which atoms count, c: those whose parents all hold and themselves count.

    Args:
        atoms: The atoms of one prompt.
        holds: Whether each of them holds.
    """
    counts = np.ones(len(atoms), bool)
    for _ in atoms:  # there are at most as many generations as atoms
        counts = np.array([all(holds[j] and counts[j] for j in atom.parents) for atom in atoms])
    return counts


def soft_tifa(
    atoms: Sequence[Atom], probabilities: Float[np.ndarray, " atoms"], holds: Bool[np.ndarray, " atoms"]
) -> SoftTIFA:
    """The means over the atoms of one prompt.

    Args:
        atoms: The atoms, one or more.
        probabilities: The probability p of the right text of each atom, 0 … 1.
        holds: Whether each atom holds, h.
    """
    q = np.where(counted(atoms, holds), probabilities, 0.0)
    with np.errstate(divide="ignore"):  # log 0 is −∞, which makes the geometric mean 0
        return SoftTIFA(float(q.mean()), float(np.exp(np.log(q).mean())))
