"""The defaults of a model, for commands and the page.

The built-in models have the concepts and prompts of their emoji world and its scorer; every other model gets
the paper's concepts and prompts, and a public CLIP.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headwise import emoji

__all__ = ["Defaults", "defaults_of", "score_by"]

READ_RIGHTLY = 0.95  # the scorer's least accuracy on drawings of a concept for the concept to be scored


@dataclass(frozen=True)
class Defaults:
    """The concepts, prompts, scorer and settings that go with a model.

    Args:
        built_in: Whether it is a built-in model, for which nothing is downloaded.
        concepts: Name of the concept set to measure.
        cases: Name of the evaluation prompts of weakening and of polysemy.
        pairs: Name of the edit pairs and of the prompts with several subjects.
        scorer: Name of the CLIP that scores its images, as `CLIPScorer.load` takes it.
        score: How weakening is scored: "choice", by the word the scorer chooses, or "similarity", by CLIP.
        steps: Denoising steps per image on the page, where an image should take less than a second with a
            built-in model; `headwise generate` takes 50 unless told otherwise.
        guidance_scale: Guidance scale of images on the page, the same as of `headwise generate`.
    """

    built_in: bool
    concepts: str
    cases: str
    pairs: str
    scorer: str
    score: Literal["choice", "similarity"]
    steps: int
    guidance_scale: float

    def scored_concepts(self, source: str | Path) -> list[str]:
        """The concepts of a file of evaluation prompts that the scorer can score.

        Args:
            source: "emoji", "paper", or the path of a TOML file, as `eval_prompts` takes it.
        """
        from headwise.benchmarks.prompts.evaluation import evaluated_concepts

        accuracy = emoji.MODELS[self.scorer].card()["judge"] if self.built_in else {}
        return [name for name in evaluated_concepts(source) if accuracy.get(name, 1.0) >= READ_RIGHTLY]


_BUILT_IN = {
    name: Defaults(True, "emoji", "emoji", "emoji", name, "choice", steps=15, guidance_scale=7.5)
    for name in emoji.MODELS
}
_OTHER = Defaults(
    built_in=False,
    concepts="paper34",
    cases="paper",
    pairs="emoji",
    scorer="openai/clip-vit-large-patch14",
    score="similarity",
    steps=50,
    guidance_scale=7.5,
)


def defaults_of(model: str) -> Defaults:
    """The defaults of a model.

    Args:
        model: Hub name, folder, or the name of a built-in model.
    """
    return _BUILT_IN.get(model, _OTHER)


def score_by(scorer: str | None) -> Literal["choice", "similarity"]:
    """How a scorer scores weakening: built-in scorers by the word they choose, other models by similarity."""
    return defaults_of(scorer or "").score
