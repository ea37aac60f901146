"""The prompts that estimators of what heads do may see, and the truth they are compared with (benchmark.py).

Estimators see prompts of a concept that are neither among those of the true losses nor among those of ordered
weakening; the words are the same.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwise.benchmarks.attribution.subset_losses import SubsetLosses
from headwise.benchmarks.prompts.evaluation import EvalPrompt, eval_prompts
from headwise.errors import HeadwiseError, UnreadableFile
from headwise.files import read_whole
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.word_prompts import WordPrompts, replaced, word_prompts
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.hooks import Hook
from headwise.model.pipelines import quiet
from headwise.model.sites import DenoiserCall
from headwise.runs.shards import batches

__all__ = [
    "HeadEstimator", "Sampling", "Truth", "Tuning", "batches_of", "generate_with", "read_truth",
    "reporting_of", "tokens_of", "tuning_of",
]  # fmt: skip


class Sampling(NamedTuple):
    """How an estimator's images are generated.

    Args:
        num_inference_steps, guidance_scale, height, width: Passed to the pipeline.
        batch_size: Images per pipeline call.
    """

    num_inference_steps: int = 4
    guidance_scale: float = 7.5
    batch_size: int = 10
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Tuning:
    """What an estimator may see of a concept.

    Args:
        concept: The name of the concept.
        prompts: Prompts with a word of the concept, none of which are used for reporting.
        words: The word of each prompt.
    """

    concept: str
    prompts: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def siblings(self) -> tuple[tuple[str, str], ...]:
        """For each prompt, the prompt with another of the concept's words in its place, and that word.

        Raises:
            HeadwiseError: All prompts have the same word.
        """
        distinct = tuple(dict.fromkeys(self.words))
        if len(distinct) < 2:
            raise HeadwiseError(
                f"All tuning prompts of {self.concept!r} have the word {distinct[0]!r}; expected two or more "
                "words, so that one can replace another."
            )
        pairs = []
        for number, (prompt, word) in enumerate(zip(self.prompts, self.words, strict=True)):
            others = [other for other in distinct if other != word]
            sibling = others[number % len(others)]
            pairs.append((replaced(prompt, word, sibling), sibling))
        return tuple(pairs)


HeadEstimator = Callable[[Any, Tuning, int], Float[np.ndarray, " all_heads"]]
"""From a pipeline, the tuning of a concept and a seed to a value for each head."""


class Truth(NamedTuple):
    """The losses of a concept when subsets of heads are weakened.

    Args:
        losses: The losses.
        prompts: The prompts whose images were scored, which no estimator may see.
    """

    losses: SubsetLosses
    prompts: tuple[str, ...]


def read_truth(path: str | Path) -> dict[str, Truth]:
    """The losses of subsets in a results file, by concept.

    Args:
        path: A JSON file with "all_heads", "subsets", "settings" and "concepts", each of which has
            "prompts", "plain" and "loss", as benchmarks/subsets.py writes it.

    Raises:
        UnreadableFile: The file holds something else.
    """
    try:
        content = json.loads(read_whole(path, "subset losses"))
        return {
            name: Truth(SubsetLosses.from_json(content | concept, path), tuple(concept["prompts"]))
            for name, concept in content["concepts"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableFile(
            f"{path} holds no subset losses of concepts ({error!r}). Give a file that benchmarks/subsets.py "
            "wrote."
        ) from None


def tuning_of(
    pipe: Any,
    concepts: ConceptSet,
    truth: Mapping[str, Truth],
    *,
    source: str | Path | None = None,
    prompts: WordPrompts | Sequence[str] | str | Path | None = None,
    count: int = 20,
) -> dict[str, Tuning]:
    """By concept, the prompts that estimators may see, none of which the truth has.

    Args:
        pipe: The pipeline; the built-in models have their own packaged templates of prompts.
        concepts: The set with the words of each concept.
        truth: The concepts, and the prompts that estimators may not see.
        source: The name or path of the concepts' file, which may have templates.
        prompts: As in `measure_effect`.
        count: The maximum number of prompts per concept.

    Raises:
        UnreadablePrompts: A concept has no prompt with one of its words.
        HeadwiseError: All prompts of a concept are the truth's.
    """
    named = ConceptSet({name: concepts.words(name) for name in truth}).marked(concepts.name)
    tuning = {}
    for name, pairs in word_prompts(named, source, prompts, pipe).items():
        unseen = [pair for pair in pairs if pair.prompt not in truth[name].prompts][:count]
        if not unseen:
            raise HeadwiseError(f"All prompts of {name!r} are among the truth's. Give other prompts.")
        texts, words = zip(*unseen, strict=True)
        tuning[name] = Tuning(name, texts, words)
    return tuning


def reporting_of(source: str | Path, tuning: Tuning, count: int = 10) -> list[EvalPrompt]:
    """Evaluation prompts of a concept for ordered weakening, none of which are tuning prompts.

    Args:
        source: "emoji", "paper", or the path of a TOML file, as `eval_prompts` takes it.
        tuning: What estimators may see of the concept.
        count: The maximum number of prompts, sampled over words, objects and templates.
    """
    unseen = [each for each in eval_prompts(source, tuning.concept) if each.prompt not in tuning.prompts]
    order = np.random.Generator(np.random.Philox(0)).permutation(len(unseen))
    return [unseen[i] for i in order[:count]]


def tokens_of(call: DenoiserCall, words: Sequence[str]) -> Bool[Tensor, "images tokens"]:
    """Which tokens of each image's text belong to its word."""
    of_word = torch.zeros(call.pictures, call.tokens, dtype=torch.bool)
    for image, word in enumerate(words):
        of_word[image, list(call.positions(image, word))] = True
    return of_word.to(call.device)


def batches_of(tuning: Tuning, sampling: Sampling, images: int = 1) -> Iterator[range]:
    """The numbers of the tuning prompts of each pipeline call, with `images` images per prompt."""
    return batches(0, len(tuning.prompts), max(1, sampling.batch_size // images))


def generate_with(
    pipe: Any, hook: Hook, prompts: Sequence[str], keys: Sequence[tuple[int, int]], sampling: Sampling
) -> None:
    """Generate images for a hook to measure.

    Args:
        pipe: The user's pipeline.
        hook: The hook.
        prompts, keys: As in `generate_keys`.
        sampling: How the images are generated.
    """
    options = sampling._asdict()
    del options["batch_size"]
    with hooked(pipe, hook), quiet(pipe):
        generate_keys(pipe, prompts, keys, output_type="latent", **options)
