r"""Questions that the paper leaves open, asked of a model, each answered by numbers with intervals.

words         How many words does a concept need?
choice        Does it matter which?
pictures      How many pictures?
tokens        How are several tokens of one word to be read: mean, sum, the last, the best?
novel         Can the relevance of a concept be foretold from its words, without measuring?
transfer      Does relevance hold for another scheduler, or another checkpoint?
steps         Is early relevance that of the whole?
aware         Is it better to weaken by the relevance of the moment than by that of all calls?
layers        Is it heads, or only layers?
factor        What should weakened attention be multiplied by?
patching      Do heads carry a word, or are they merely needed for it (patching.py)?

Agreement is the rank correlation over heads; intervals are of its mean over concepts (bootstrap over these,
not over pictures or drawings of words), and the relevance agreed with is measured on other pictures. The last
four are asked by meddling with heads (causes.py). Words and pictures come from the seed alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts import EditPair
from headwise.benchmarks.questions.interventions import DRAWN, PARTS, Interventions, mean
from headwise.benchmarks.questions.pooling import POOLS, Pool, PooledProbe
from headwise.benchmarks.questions.prediction import foretold, likeness, nearest
from headwise.files import write_whole
from headwise.intervals import Interval
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
from headwise.runs.folder import Progress, RunFolder
from headwise.runs.shards import batches

__all__ = ["QUESTIONS", "Answer", "benchmark_questions", "other_schedulers"]

QUESTIONS = "questions.json"
AGREEMENT = "rank correlation over heads"
DRAWINGS = 3  # of words


@dataclass(frozen=True)
class Answer:
    """What was found.

    Args:
        question: In words.
        reading: What the rows are.
        measure: What the numbers are.
        values: By row.
    """

    question: str
    reading: str
    measure: str
    values: dict[str, Interval]


@dataclass(frozen=True)
class _Model:
    """What is asked about, and how pictures are drawn for it."""

    pipe: Any
    concepts: ConceptSet
    out: Path
    pictures: int
    seed: int
    batch_size: int
    progress: bool

    def measure(self, name: str, concepts: ConceptSet | None = None, pipe: Any = None) -> Relevance:
        """The relevance on the first pictures."""
        return self._measure(name, range(self.pictures), concepts, pipe)

    def others(self, name: str, pictures: int, concepts: ConceptSet | None = None) -> Relevance:
        """The relevance on so many others."""
        return self._measure(name, range(self.pictures, self.pictures + pictures), concepts, None)

    def _measure(self, name: str, numbers: range, concepts: ConceptSet | None, pipe: Any) -> Relevance:
        return measure(
            self.pipe if pipe is None else pipe,
            concepts or self.concepts,
            pictures=numbers.stop,
            numbers=numbers,
            seed=self.seed,
            out=self.out / name,
            batch_size=self.batch_size,
            progress=self.progress,
        )


def benchmark_questions(
    pipe: Any,
    concepts: ConceptSet,
    pairs: list[EditPair],
    judge: CLIPScorer,
    out: str | Path,
    *,
    others: Mapping[str, Any] | None = None,
    schedulers: Mapping[str, Any] | None = None,
    pictures: int = 64,
    whole: int = 512,
    seeds: tuple[int, ...] = (0, 1),
    seed: int = 0,
    batch_size: int = 12,
    progress: bool = True,
) -> dict[str, Answer]:
    """Ask all questions; what is measured stays in the folder, and is not measured again.

    Args:
        pipe, concepts: What is asked about.
        pairs: Prompts that differ in one word of an attribute that is a concept.
        judge: Who says which word a picture shows.
        out: Folder.
        others: Other checkpoints with the same heads, by name.
        schedulers: Other schedulers for the pipeline, by name.
        pictures: Of each measurement.
        whole: Of the relevance that all others are held against.
        seeds: Each pair is drawn once from each.
        seed, batch_size, progress: As in `measure`.
    """
    model = _Model(pipe, concepts, Path(out), pictures, seed, batch_size, progress)
    relevance = model.others("whole", whole)
    votes = Votes.load(model.out / "whole" / "votes.safetensors")
    causes = Interventions(pipe, relevance, pairs, judge, seeds, model.out, progress)
    answers = {
        "words": _words(model, relevance),
        "choice": _choice(model, relevance),
        "pictures": _pictures(votes),
        "tokens": _tokens(model, relevance),
        "novel": _novel(model, relevance),
        "transfer": _transfer(model, relevance, others or {}, schedulers or {}),
        "steps": _steps(model, relevance),
        **_causes(causes),
    }
    said = {"model": model_name(pipe), "pictures": pictures, "whole": whole, "seed": seed}
    said |= {"whole_split_half": float(np.median(relevance.split_half)), "pairs": len(pairs)}
    found = {name: vars(answer) | {"values": answer.values} for name, answer in answers.items()}
    content = json.dumps({"settings": said, "answers": found}, indent=1) + "\n"
    write_whole(model.out / QUESTIONS, content.encode())
    return answers


def other_schedulers(pipe: Any) -> dict[str, Any]:
    """Some that diffusers can put in the place of the pipeline's own, with its noise."""
    import diffusers

    own = pipe.scheduler
    known = {scheduler.__name__ for scheduler in getattr(own, "compatibles", ())}
    names = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler")
    return {
        n: getattr(diffusers, n).from_config(own.config) for n in names if n in known - {type(own).__name__}
    }


def _agreement(a: Relevance, b: Relevance) -> Float[np.ndarray, " concepts"]:
    return rank_correlation(a.values, b.values)


def _chosen(concepts: ConceptSet, places: Mapping[str, np.ndarray]) -> ConceptSet:
    """The words of each concept at these places."""
    return ConceptSet(
        {name: tuple(concepts.words(name)[i] for i in sorted(at)) for name, at in places.items()}
    )


def _shuffled(model: "_Model", *stream: int) -> dict[str, np.ndarray]:
    """The places of each concept's words, in an order drawn for this purpose."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([model.seed, *stream])))
    return {name: generator.permutation(len(model.concepts.words(name))) for name in model.concepts.names}


def _words(model: _Model, whole: Relevance) -> Answer:
    values, lengths = {}, np.array([len(model.concepts.words(name)) for name in model.concepts.names])
    for count in (1, 2, 4):
        agree, there = [], lengths >= 2 * count
        for draw in range(DRAWINGS):
            some = {name: order[:count] for name, order in _shuffled(model, count, draw).items()}
            found = model.measure(f"{count} words, drawing {draw}", _chosen(model.concepts, some))
            agree.append(_agreement(found, whole)[there])
        if there.any():
            values[f"{count} of the words of {there.sum()} concepts"] = mean(np.mean(agree, 0))
    values["all words"] = mean(_agreement(model.measure("all words"), whole))
    return Answer(
        "How many words does a concept need?",
        "Relevance measured with so many of each concept's words, three drawings of words, held against that "
        "of all its words, of which they are some: only concepts with at least twice as many words are told.",
        AGREEMENT,
        values,
    )


def _choice(model: _Model, whole: Relevance) -> Answer:
    words, wholes = [], []
    for draw in range(DRAWINGS):
        orders, halves = _shuffled(model, 0, draw), []
        for part in (0, 1):
            half = _chosen(model.concepts, {name: order[part::2] for name, order in orders.items()})
            halves.append(model.measure(f"half {part} of the words, drawing {draw}", half))
        words.append(_agreement(*halves))
        wholes += [_agreement(half, whole) for half in halves]
    again = _agreement(model.measure("all words"), whole)
    return Answer(
        "Does it matter which words stand for a concept?",
        "Two halves of each concept's words on the same pictures, three drawings; then each half, and all "
        "words, held against all words, of which each half is a part, on other pictures.",
        AGREEMENT,
        {
            "one half of the words, the other": mean(np.mean(words, 0)),
            "a half, all (other pictures)": mean(np.mean(wholes, 0)),
            "all, all (other pictures)": mean(again),
        },
    )


def _pictures(votes: Votes) -> Answer:
    blocks = votes.blocks.transpose(0, 2, 1)
    total, values = blocks.sum(0), {}
    for group in (1, 2, 4, 8, 16):
        runs = blocks.reshape(-1, group, *blocks.shape[1:]).sum(1)
        agree = np.mean([rank_correlation(run, total - run) for run in runs], 0)
        values[f"{len(votes) * group // len(blocks)} pictures"] = mean(agree)
    return Answer(
        "How many pictures does a measurement need?",
        "Relevance of so many pictures, held against that of all the others.",
        AGREEMENT,
        values,
    )


def _tokens(model: _Model, whole: Relevance) -> Answer:
    """Of concepts with words of one token and of several: do the latter give the relevance of the former?"""
    embeddings = model.concepts.embed(model.pipe)
    lengths = {
        name: [len(word) for word in words]
        for name, words in zip(model.concepts.names, embeddings.words, strict=True)
    }
    mixed = [name for name, found in lengths.items() if min(found) == 1 < max(found)]
    question = "How are several tokens of one word to be read?"
    reading = (
        f"Relevance of {len(mixed)} concepts from their words of several tokens alone, held against that of "
        "their words of one token, on other pictures: the mean over tokens, the sum, the last; or each token "
        "for itself, without a penalty for a word of several, and the best of them."
    )
    if not mixed:
        return Answer(question, "No concept has words of one token and of several.", AGREEMENT, {})
    long, short = (
        _chosen(
            model.concepts,
            {
                name: np.array([i for i, n in enumerate(found) if name not in mixed or (n > 1) == several])
                for name, found in lengths.items()
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
    texts = read_prompts(None, model.pipe)
    settings = settings_of(model.pipe, concepts, texts, None, model.seed) | DRAWN | {"pool": pool}
    nothing = Votes.empty(HeadMap.of(model.pipe), concepts, settings | {"draws": LEAN.samples_per_call})
    probe = PooledProbe(model.pipe, concepts, model.seed, pool, samples_per_call=LEAN.samples_per_call)
    with (
        RunFolder(model.out / f"tokens, {pool}", nothing.settings, nothing) as folder,
        Progress(folder, model.pictures, 10, model.progress) as done,
        hooked(model.pipe, probe),
        quiet(model.pipe),
    ):
        for left in folder.so_far.left(range(model.pictures)):
            for numbers in batches(left.start, left.stop, model.batch_size, ()):
                probe.begin(numbers)
                generate(model.pipe, texts, model.seed, numbers, output_type="latent", **DRAWN)
                done(Votes.of_pictures(probe.take(), numbers, probe.head_map, concepts, nothing.settings))
    return folder.so_far.totals


def _novel(model: _Model, whole: Relevance) -> Answer:
    """Leave one concept out: ridge regression from the mean embedding of its words."""
    alike = likeness(model.concepts.embed(model.pipe))
    dealt = np.random.Generator(np.random.Philox(model.seed)).permutation(len(alike))
    found = {
        "from the words (ridge)": foretold(alike, whole.values),
        "words dealt to other concepts": foretold(alike[np.ix_(dealt, dealt)], whole.values),
        "the most alike concept": np.stack([whole.values[nearest(alike, c)] for c in range(len(alike))]),
        "the mean of the others": (whole.values.sum(0) - whole.values) / (len(alike) - 1),
    }
    return Answer(
        "Can a concept's relevance be foretold from its words, without measuring?",
        "Each concept in turn is left out and foretold from the embeddings of its words and the relevance of "
        "all others. The mean of the others knows nothing of the concept.",
        AGREEMENT,
        {name: mean(rank_correlation(values, whole.values)) for name, values in found.items()},
    )


def _transfer(
    model: _Model, whole: Relevance, others: Mapping[str, Any], schedulers: Mapping[str, Any]
) -> Answer:
    own, values = model.pipe.scheduler, {}
    values[f"{type(own).__name__}, its own"] = mean(_agreement(model.measure("all words"), whole))
    try:
        for name, scheduler in schedulers.items():
            model.pipe.scheduler = scheduler
            values[name] = mean(_agreement(model.measure(f"scheduler {name}"), whole))
    finally:
        model.pipe.scheduler = own
    for name, other in others.items():
        values[name] = mean(_agreement(model.measure(f"checkpoint {name}", pipe=other), whole))
    return Answer(
        "Does relevance hold for another scheduler, or another checkpoint?",
        "Measured with each, on the same latents and prompts, held against the whole, of other pictures.",
        AGREEMENT,
        values,
    )


def _steps(model: _Model, whole: Relevance) -> Answer:
    few = model.measure("all words")
    parts = {
        name: (few.at_steps(*part), whole.at_steps(*part))
        for name, part in zip(("first three tenths", "middle four", "last three"), PARTS, strict=True)
    }
    values = {"all calls, all calls": mean(_agreement(few, whole))}
    for name, (ours, theirs) in parts.items():
        values[f"{name}, all calls"] = mean(_agreement(ours, whole))
        values[f"{name}, the same"] = mean(_agreement(ours, theirs))
    early, late = parts["first three tenths"][0], parts["last three"][1]
    values["first three tenths, last three"] = mean(_agreement(early, late))
    return Answer(
        "Is the relevance of early calls that of the whole?",
        "Relevance of a part of the calls, held against that of all and of the same part, of other pictures.",
        AGREEMENT,
        values,
    )


def _causes(causes: Interventions) -> dict[str, Answer]:
    by_layer, aware, weakened = causes.weakening()
    area, pairs = "area between curves", f"{len(causes.pairs)} pairs of prompts"
    return {
        "aware": Answer(
            "Is it better to weaken by the relevance of the moment?",
            f"The first k heads are weakened, in each part of the calls (three tenths, four, three) by the "
            "order of its own votes, by that of all votes, or by that of the part before. Above 0, the "
            f"moment's own order loses the target's word sooner. {pairs}.",
            area,
            aware,
        ),
        "layers": Answer(
            "Is it heads, or only layers?",
            "The target's word lost when the most relevant are weakened first, against the least relevant "
            f"first: by heads, and by whole layers in the order of their mean relevance. {pairs}.",
            area,
            by_layer,
        ),
        "factor": Answer(
            "What should weakened attention be multiplied by?",
            "The target's word lost when the most relevant heads are weakened first, against the least "
            f"relevant first, by what their attention is multiplied by. {pairs}.",
            area,
            causes.factors(),
        ),
        "patching": Answer(
            "Do relevant heads carry a word?",
            "What the first k heads hand on is exchanged for what they hand on for a prompt with another "
            "word, the source's. Above 0, the source's word comes, or the target's is lost, the sooner for "
            f"the most relevant heads. Beside it, the same heads weakened. {pairs}, three random orders.",
            area,
            causes.patching() | weakened,
        ),
    }
