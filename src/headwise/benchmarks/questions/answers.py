r"""Questions that the paper leaves open, each answered for a model by numbers with intervals.

words         How many words does a concept need?
choice        Does it matter which words?
pictures      How many images?
tokens        How should attention to the tokens of one word be pooled: mean, sum, the last, the best?
novel         Can the relevance of a concept be predicted from its words, without measuring?
transfer      Does relevance hold for another scheduler, or another checkpoint?
steps         Is the relevance of early calls that of all calls?
aware         Is it better to weaken by step-aware relevance than by that of all calls?
layers        Is it heads, or only layers?
factor        What should weakened attention be multiplied by?
patching      Do heads carry a word, or are they merely needed for it (patch.py)?

Agreement is the rank correlation over heads with relevance measured on other images; intervals are for its
mean over concepts (bootstrap over concepts, not over images or samples of words). The last four are answered
by interventions on heads (interventions.py). Words and images depend only on the seed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.comparison import given_options
from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.questions.interventions import PARTS, SAMPLING, Interventions
from headwise.benchmarks.questions.pooling import POOLS, Pool, PooledProbe
from headwise.benchmarks.questions.prediction import nearest, predict_relevance, similarity
from headwise.benchmarks.results import QUESTIONS_FILE, Answer
from headwise.files import write_whole
from headwise.intervals import Interval, mean
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.estimators import LEAN
from headwise.measuring.measure import measure, settings_of
from headwise.measuring.prompts import read_prompts
from headwise.measuring.relevance import Relevance
from headwise.measuring.reliability import rank_correlation
from headwise.measuring.votes import Votes
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import model_name, quiet
from headwise.model.samplers import sampler_of, samplers_for, use_sampler
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.shards import batches

__all__ = ["Answer", "benchmark_questions", "other_schedulers"]

AGREEMENT = "rank correlation over heads"
SUBSETS = 3  # of words, sampled for each question


@dataclass(frozen=True)
class _Model:
    """The model that the questions are about, and how its relevance is measured."""

    pipe: Any
    concepts: ConceptSet
    out: Path
    pictures: int
    seed: int
    batch_size: int
    progress: bool
    size: dict[str, Any]

    def measure(self, name: str, concepts: ConceptSet | None = None, pipe: Any = None) -> Relevance:
        """The relevance from the first images."""
        return self._measure(name, range(self.pictures), concepts, pipe)

    def others(self, name: str, pictures: int, concepts: ConceptSet | None = None) -> Relevance:
        """The relevance from a number of images that `measure` does not use."""
        return self._measure(name, range(self.pictures, self.pictures + pictures), concepts, None)

    def _measure(self, name: str, numbers: range, concepts: ConceptSet | None, pipe: Any) -> Relevance:
        return measure(
            self.pipe if pipe is None else pipe, concepts or self.concepts, beside=None,
            pictures=numbers.stop, numbers=numbers, seed=self.seed, out=self.out / name,
            batch_size=self.batch_size, progress=self.progress, **self.size,
        )  # fmt: skip


def benchmark_questions(
    pipe: Any,
    concepts: ConceptSet,
    pairs: list[EditPair],
    scorer: CLIPScorer,
    out: str | Path,
    *,
    others: Mapping[str, Any] | None = None,
    schedulers: Mapping[str, Any] | None = None,
    pictures: int = 64,
    whole: int = 512,
    seeds: tuple[int, ...] = (0, 1),
    seed: int = 0,
    batch_size: int = 12,
    height: int | None = None,
    width: int | None = None,
    progress: bool = True,
) -> dict[str, Answer]:
    """Answer all questions; measurements that are already in the folder are not repeated.

    Args:
        pipe: The user's pipeline, which is left unchanged.
        concepts: The concepts that heads choose between.
        pairs: Prompts that differ in one word of an attribute that is a concept.
        scorer: A CLIP model that chooses the text that fits an image.
        out: Folder for all measurements and sweeps, and for the answers.
        others: Other checkpoints with the same heads, by name.
        schedulers: Other schedulers for the pipeline, by name.
        pictures: The number of images in each measurement.
        whole: The number of images in the relevance that all others are compared with.
        seeds: Each pair is generated once from each seed.
        seed, batch_size, height, width, progress: As in `measure`.
    """
    size = given_options(height=height, width=width)
    model = _Model(pipe, concepts, Path(out), pictures, seed, batch_size, progress, size)
    relevance = model.others("whole", whole)
    votes = Votes.load(model.out / "whole" / "votes.safetensors")
    interventions = Interventions(pipe, relevance, pairs, scorer, seeds, model.out, progress, size)
    answers = {
        "words": _words(model, relevance),
        "choice": _choice(model, relevance),
        "pictures": _pictures(votes),
        "tokens": _tokens(model),
        "novel": _novel(model, relevance),
        "transfer": _transfer(model, relevance, others or {}, schedulers or {}),
        "steps": _steps(model, relevance),
        **interventions.answers(),
    }
    settings = {"model": model_name(pipe), "pictures": pictures, "whole": whole, "seed": seed} | size
    settings |= {"whole_split_half": float(np.median(relevance.split_half)), "pairs": len(pairs)}
    values = {name: {row: n.as_json() for row, n in answers[name].values.items()} for name in answers}
    as_json = {name: vars(answer) | {"values": values[name]} for name, answer in answers.items()}
    content = {"settings": settings, "answers": as_json}
    write_whole(model.out / QUESTIONS_FILE, (json.dumps(content, indent=1) + "\n").encode())
    return answers


def other_schedulers(pipe: Any) -> dict[str, Any]:
    """Some schedulers that can replace the pipeline's, with its noise schedule."""
    original, others = pipe.scheduler, {}
    fitting = set(samplers_for(pipe)) - {sampler_of(pipe)}
    for sampler in ("Euler", "DPM++ 2M", "PNDM"):
        if sampler in fitting:
            use_sampler(pipe, sampler)
            others[type(pipe.scheduler).__name__] = pipe.scheduler
            pipe.scheduler = original
    return others


def _agreement(a: Relevance, b: Relevance) -> Float[np.ndarray, " concepts"]:
    return rank_correlation(a.values, b.values)


def _chosen(concepts: ConceptSet, positions: Mapping[str, np.ndarray]) -> ConceptSet:
    """A concept set with the words at these positions of each concept's list."""
    return ConceptSet(
        {name: tuple(concepts.words(name)[i] for i in sorted(at)) for name, at in positions.items()}
    )


def _shuffled(model: "_Model", *stream: int) -> dict[str, np.ndarray]:
    """The positions of each concept's words in a random order, which depends on the stream."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([model.seed, *stream])))
    return {name: generator.permutation(len(model.concepts.words(name))) for name in model.concepts.names}


def _words(model: _Model, reference: Relevance) -> Answer:
    values, lengths = {}, np.array([len(model.concepts.words(name)) for name in model.concepts.names])
    for count in (1, 2, 4):
        agree, enough = [], lengths >= 2 * count
        for sample in range(SUBSETS):
            subset = {name: order[:count] for name, order in _shuffled(model, count, sample).items()}
            few = model.measure(f"{count} words, drawing {sample}", _chosen(model.concepts, subset))
            agree.append(_agreement(few, reference)[enough])
        if enough.any():
            values[f"{count} of the words of {enough.sum()} concepts"] = mean(np.mean(agree, 0))
    values["all words"] = mean(_agreement(model.measure("all words"), reference))
    return Answer(
        "How many words does a concept need?",
        "Relevance measured with a few of each concept's words, for three samples of words, compared with "
        "that of all its words, which include them. Only concepts with at least twice as many words count.",
        AGREEMENT,
        values,
    )


def _choice(model: _Model, reference: Relevance) -> Answer:
    between, with_all = [], []
    for sample in range(SUBSETS):
        orders = _shuffled(model, 0, sample)
        halves = [
            model.measure(
                f"half {half} of the words, drawing {sample}",
                _chosen(model.concepts, {name: order[half::2] for name, order in orders.items()}),
            )
            for half in (0, 1)
        ]
        between.append(_agreement(*halves))
        with_all += [_agreement(half, reference) for half in halves]
    return Answer(
        "Does it matter which words stand for a concept?",
        "Two halves of each concept's words on the same images, for three samples; then each half, and all "
        "words, compared with all words, which include each half, on other images.",
        AGREEMENT,
        {
            "one half of the words, the other": mean(np.mean(between, 0)),
            "a half, all (other images)": mean(np.mean(with_all, 0)),
            "all, all (other images)": mean(_agreement(model.measure("all words"), reference)),
        },
    )


def _pictures(votes: Votes) -> Answer:
    blocks = votes.blocks.transpose(0, 2, 1)
    total, values = blocks.sum(0), {}
    for group in (1, 2, 4, 8, 16):
        runs = blocks.reshape(-1, group, *blocks.shape[1:]).sum(1)
        agree = np.mean([rank_correlation(run, total - run) for run in runs], 0)
        values[f"{len(votes) * group // len(blocks)} images"] = mean(agree)
    return Answer(
        "How many images does a measurement need?",
        "Relevance from a few images, compared with that from all the other images.",
        AGREEMENT,
        values,
    )


def _tokens(model: _Model) -> Answer:
    """Whether words of several tokens give the same relevance as words of one, for concepts with both."""
    embeddings = model.concepts.embed(model.pipe)
    lengths = {
        name: [len(word) for word in words]
        for name, words in zip(model.concepts.names, embeddings.words, strict=True)
    }
    mixed = [name for name, tokens in lengths.items() if min(tokens) == 1 < max(tokens)]
    question = "How should attention to several tokens of one word be pooled?"
    reading = (
        f"Relevance of {len(mixed)} concepts from only their words of several tokens, compared with that "
        "from their words of one token on other images. A word's attention is the mean over its tokens, the "
        "sum, that of the last, or that of the best, which does not penalise long words."
    )
    if not mixed:
        return Answer(question, "No concept has words of one token and of several.", AGREEMENT, {})
    long, short = (
        _chosen(
            model.concepts,
            {
                name: np.array([i for i, n in enumerate(tokens) if name not in mixed or (n > 1) == several])
                for name, tokens in lengths.items()
            },
        )
        for several in (True, False)
    )
    single = model.others("words of one token", model.pictures, short)
    rows = [model.concepts.names.index(name) for name in mixed]
    values: dict[str, Interval] = {}
    for pool in POOLS:
        counted = _counted(model, long, pool)
        values[pool] = mean(rank_correlation(counted[rows], single.values[rows]))
    return Answer(question, reading, AGREEMENT, values)


def _counted(model: _Model, concepts: ConceptSet, pool: Pool) -> Int[np.ndarray, "concepts all_heads"]:
    texts, passed = read_prompts(None, model.pipe), SAMPLING | model.size
    settings = settings_of(model.pipe, concepts, texts, None, model.seed) | passed | {"pool": pool}
    nothing = Votes.empty(HeadMap.of(model.pipe), concepts, settings | {"draws": LEAN.samples_per_call})
    probe = PooledProbe(model.pipe, concepts, model.seed, pool, samples_per_call=LEAN.samples_per_call)
    with (
        RunFolder(model.out / f"tokens, {pool}", nothing.settings, nothing) as folder,
        Progress(folder, model.pictures, 10, model.progress) as done,
        hooked(model.pipe, probe),
        quiet(model.pipe),
    ):
        for missing in folder.so_far.left(range(model.pictures)):
            for numbers in batches(missing.start, missing.stop, model.batch_size, ()):
                probe.begin(numbers)
                generate(model.pipe, texts, model.seed, numbers, output_type="latent", **passed)
                done(Votes.of_pictures(probe.take(), numbers, probe.head_map, concepts, nothing.settings))
    return folder.so_far.totals


def _novel(model: _Model, reference: Relevance) -> Answer:
    """Leave one concept out at a time: kernel ridge regression from the mean embedding of its words."""
    measured, kernel = reference.values, similarity(model.concepts.embed(model.pipe))
    order = np.random.Generator(np.random.Philox(model.seed)).permutation(len(kernel))
    predicted = {
        "from the words (ridge)": predict_relevance(kernel, measured),
        "from the words of other concepts": predict_relevance(kernel[np.ix_(order, order)], measured),
        "the most similar concept": np.stack([measured[nearest(kernel, c)] for c in range(len(kernel))]),
        "the mean of the others": (measured.sum(0) - measured) / (len(kernel) - 1),
    }
    return Answer(
        "Can a concept's relevance be predicted from its words, without measuring?",
        "Each concept in turn is left out, and predicted from the embeddings of its words and the relevance "
        "of all other concepts. The mean of the others does not depend on the concept.",
        AGREEMENT,
        {name: mean(rank_correlation(values, measured)) for name, values in predicted.items()},
    )


def _transfer(
    model: _Model, reference: Relevance, others: Mapping[str, Any], schedulers: Mapping[str, Any]
) -> Answer:
    original, values = model.pipe.scheduler, {}
    values[f"{type(original).__name__}, its own"] = mean(_agreement(model.measure("all words"), reference))
    try:
        for name, scheduler in schedulers.items():
            model.pipe.scheduler = scheduler
            values[name] = mean(_agreement(model.measure(f"scheduler {name}"), reference))
    finally:
        model.pipe.scheduler = original
    for name, other in others.items():
        values[name] = mean(_agreement(model.measure(f"checkpoint {name}", pipe=other), reference))
    return Answer(
        "Does relevance hold for another scheduler, or another checkpoint?",
        "Relevance is measured with each scheduler and each model, on the same latents and prompts, and "
        "compared with relevance from other images.",
        AGREEMENT,
        values,
    )


def _steps(model: _Model, reference: Relevance) -> Answer:
    few = model.measure("all words")
    parts = {
        name: (few.at_steps(*part), reference.at_steps(*part))
        for name, part in zip(("first three tenths", "middle four", "last three"), PARTS, strict=True)
    }
    values = {"all calls, all calls": mean(_agreement(few, reference))}
    for name, (part, reference_part) in parts.items():
        values[f"{name}, all calls"] = mean(_agreement(part, reference))
        values[f"{name}, the same"] = mean(_agreement(part, reference_part))
    early, late = parts["first three tenths"][0], parts["last three"][1]
    values["first three tenths, last three"] = mean(_agreement(early, late))
    return Answer(
        "Is the relevance of early calls that of all calls?",
        "Relevance from some calls, compared with that from all and from the same calls, on other images.",
        AGREEMENT,
        values,
    )
