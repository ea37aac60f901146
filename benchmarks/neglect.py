"""Is a subject that is missing from an image one that was not attended to?

    nice python benchmarks/neglect.py [--model emoji-dit] [--count 40] [--steps 10] [--write]

Attend-and-Excite moves latents until every subject of a prompt is attended to somewhere. That helps only if
missing subjects lack attention. Of prompts with two objects, the attention to every subject is read after two
fifths of the calls, where Attend-and-Excite wants 0.8, without and with its moves:

    attended[k] = max over pixels of the smoothed map of subject k, among the prompt words, 0 … 1

and the scorer says whether the object is in the finished image. Reported are the means of both, with their
intervals by bootstrap over prompts, and the area under the ROC curve: how well attention tells subjects that
are there from those that are missing, 0.5 being chance. Maps are the mean of coarse layers (as published), or
weighted by relevance, by votes and by effect.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from looking import add_output_to, tell
from torch import Tensor

from headwise import emoji
from headwise.benchmarks.atoms import score_atoms
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.multi_concept import subject_atoms
from headwise.benchmarks.prompts.evaluation import MultiSubjectPrompt, multi_subject_prompts
from headwise.editing.attend_and_excite import Excite
from headwise.intervals import mean
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.pipelines import load_pipeline, quiet
from headwise.model.sites import DenoiserCall

READ_AT = 0.4  # the share of the calls at which attention is read
BATCH = 10


class Attended(Excite):
    """A hook that reads how strongly one subject of each image is attended to, and moves nothing."""

    def __init__(self, words: Sequence[str], at: int, **weights: Any) -> None:
        super().__init__([[word] for word in words], **weights)
        self.at, self.values = at, np.zeros(0)

    def before_first_step(self, latents: Tensor, call: DenoiserCall) -> Tensor:
        """Find the subjects' tokens."""
        self._state = None
        self.prepare(call)
        return latents

    def after_step(self, latents: Tensor, call: DenoiserCall) -> Tensor:
        """Read the maps that the denoiser call `at` would have."""
        if call.step + 1 == self.at:
            timestep = call.scheduler.timesteps[self.at - call.steps]
            scaled = call.scheduler.scale_model_input(latents, timestep)
            with torch.no_grad():
                self.values = 1 - self.loss(scaled, timestep).double().numpy()
        return latents


def read(
    pipe: Any, scorer: CLIPScorer, prompts: Sequence[MultiSubjectPrompt], steps: int,
    weightings: dict[str, Relevance | None], exciting: bool,
) -> tuple[dict[str, Float[np.ndarray, "prompts 2"]], Bool[np.ndarray, "prompts 2"]]:  # fmt: skip
    """The attention to both subjects of each prompt by each weighting, and which of them are there."""
    attended: dict[str, list[np.ndarray]] = {name: [] for name in weightings}
    atoms, there = subject_atoms(prompts), []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        concepts = {word: concept for prompt in batch for word, concept in prompt.concepts.items()}
        readers = {
            (name, k): Attended(
                [prompt.words[k] for prompt in batch],
                round(READ_AT * steps),
                relevance=relevance,
                concepts=None if relevance is None else concepts,
            )
            for name, relevance in weightings.items()
            for k in range(2)
        }
        excites = [Excite([prompt.words for prompt in batch])] if exciting else []
        with quiet(pipe), hooked(pipe, *excites, *readers.values()):
            images = generate_keys(
                pipe, [prompt.prompt for prompt in batch], [0] * len(batch), num_inference_steps=steps
            )
        for name in weightings:
            attended[name].append(np.stack([readers[name, k].values for k in range(2)], 1))
        there += [holds[:2] for _, holds in score_atoms(scorer, images, atoms[start : start + BATCH])]
    return {name: np.concatenate(values) for name, values in attended.items()}, np.array(there)


def roc_area(values: Float[np.ndarray, "..."], labels: Bool[np.ndarray, "..."]) -> float:
    """The chance that a value with its label is above one without; ties count half."""
    above, below = values[labels], values[~labels]
    if not len(above) or not len(below):
        return float("nan")
    return float(np.mean((above[:, None] > below) + 0.5 * (above[:, None] == below)))


def interval(values: Float[np.ndarray, "prompts 2"]) -> list[float]:
    """The mean over prompts and subjects, with its interval over prompts."""
    return [round(end, 4) for end in mean(values.mean(1))]


def compare(model: str, count: int, steps: int) -> dict[str, Any]:
    """Attention and presence, plain and excited."""
    pipe, scorer = load_pipeline(model), CLIPScorer.load(model)
    pipe.to(torch.bfloat16)
    prompts = [p for p in multi_subject_prompts("emoji", count) if p.kind == "type1"]
    weightings = {
        "coarse layers": None,
        "votes": Relevance.load(emoji.MODELS[model].relevance),
        "effect": Relevance.load(emoji.MODELS[model].effect),
    }
    result: dict[str, Any] = {"model": model, "prompts": len(prompts), "steps": steps, "read_at": READ_AT}
    for name, exciting in (("plain", False), ("attend-and-excite", True)):
        attended, there = read(pipe, scorer, prompts, steps, weightings, exciting)
        result[name] = {"there": interval(there.astype(float))} | {
            by: {
                "attended": interval(values),
                "attended_if_there": round(float(values[there].mean()), 4),
                "attended_if_missing": round(float(values[~there].mean()), 4),
                "roc_area": round(roc_area(values, there), 4),
            }
            for by, values in attended.items()
        }
    return result


def main() -> None:
    """Compare, and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji", choices=emoji.MODELS)
    parser.add_argument("--count", type=int, default=40, help="prompts")
    parser.add_argument("--steps", type=int, default=10)
    add_output_to(parser)
    options = parser.parse_args()
    tell(compare(options.model, options.count, options.steps), options, f"{options.model}-neglect")


if __name__ == "__main__":
    main()
