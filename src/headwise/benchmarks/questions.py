r"""Questions that the paper leaves open, asked of a model, each answered by numbers with intervals.

words         How many words does a concept need?
choice        Does it matter which?
pictures      How many pictures?
tokens        How are several tokens of one word to be read: mean, sum, the last, the best?
novel         Can the relevance of a concept be foretold from its words, without measuring?
transfer      Does relevance hold for another scheduler, or another checkpoint?
steps         Is early relevance that of the whole?
aware         Is it better to weaken by the relevance of the moment than by that of all calls?
patching      Do heads carry a word, or are they merely needed for it (patching.py)?

Agreement is the rank correlation over heads; intervals are of its mean over concepts (bootstrap), and the
relevance agreed with is measured on other pictures. Words and pictures come from the seed alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headwise.attention import Site, hooked
from headwise.cases import Pair
from headwise.concepts import ConceptSet
from headwise.draws import Shown
from headwise.estimators import LEAN
from headwise.files import write_whole
from headwise.generate import batches, generate
from headwise.heads import HeadMap
from headwise.intervals import Interval, bootstrap
from headwise.metrics import Judge
from headwise.patching import Patch
from headwise.pipelines import model_name, quiet
from headwise.probe import ConceptProbe, measure, preferred, token_attention
from headwise.prompt_to_prompt import draw_edits
from headwise.prompts import read_prompts
from headwise.relevance import Relevance
from headwise.reliability import rank_correlation
from headwise.scores import Axes, Scores
from headwise.steer import weaken
from headwise.votes import Votes
from headwise.weakening import LEAST, MOST, Weakening

__all__ = ["QUESTIONS", "Answer", "benchmark_questions", "other_schedulers"]

QUESTIONS = "questions.json"
AGREEMENT = "rank correlation over heads"
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
DRAWINGS = 3  # of words
EIGHTHS = (0, 1, 2, 4, 6, 8)
PARTS = ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0))  # of the denoiser calls
DRAWN: dict[str, Any] = {"num_inference_steps": LEAN.num_inference_steps, "guidance_scale": 7.5}


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

    def whole(self, pictures: int) -> Relevance:
        """The relevance on many others."""
        return self._measure("whole", range(self.pictures, self.pictures + pictures), None, None)

    def keep(self, name: str, scores: Scores) -> Scores:
        """Leave scores of a concept in the folder."""
        folder = self.out / name / scores.settings["concept"].lower().replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        scores.save(folder / "scores.safetensors")
        return scores

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
    pairs: list[Pair],
    judge: Judge,
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
        pairs: Prompts that differ in one word, for steps and patching.
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
    relevance = model.whole(whole)
    votes = Votes.load(model.out / "whole" / "votes.safetensors")
    answers = {
        "words": _words(model, relevance),
        "choice": _choice(model, relevance),
        "pictures": _pictures(votes),
        "tokens": _tokens(model, relevance),
        "novel": _novel(model, relevance),
        "transfer": _transfer(model, relevance, others or {}, schedulers or {}),
        "steps": _steps(relevance),
        "aware": _aware(model, relevance, pairs, judge, seeds),
        "patching": _patching(model, relevance, pairs, judge, seeds),
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


def _mean(values: Float[np.ndarray, " concepts"]) -> Interval:
    found = bootstrap(np.asarray(values, float), lambda mean: mean)
    return Interval(*(float(end) for end in found))


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
    values = {}
    for count in (1, 2, 4):
        agree = []
        for draw in range(DRAWINGS):
            some = {name: order[:count] for name, order in _shuffled(model, count, draw).items()}
            found = model.measure(f"{count} words, drawing {draw}", _chosen(model.concepts, some))
            agree.append(_agreement(found, whole))
        values[f"{count} of its words"] = _mean(np.mean(agree, 0))
    values["all its words"] = _mean(_agreement(model.measure("all words"), whole))
    return Answer(
        "How many words does a concept need?",
        "Relevance measured with so many words of each concept, three drawings of words, and with all.",
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
        "words, held against all words on other pictures.",
        AGREEMENT,
        {
            "one half of the words, the other": _mean(np.mean(words, 0)),
            "a half, all (other pictures)": _mean(np.mean(wholes, 0)),
            "all, all (other pictures)": _mean(again),
        },
    )


def _pictures(votes: Votes) -> Answer:
    blocks = votes.blocks.transpose(0, 2, 1)
    total, values = blocks.sum(0), {}
    for group in (1, 2, 4, 8, 16):
        runs = blocks.reshape(-1, group, *blocks.shape[1:]).sum(1)
        agree = np.mean([rank_correlation(run, total - run) for run in runs], 0)
        values[f"{len(votes) * group // len(blocks)} pictures"] = _mean(agree)
    return Answer(
        "How many pictures does a measurement need?",
        "Relevance of so many pictures, held against that of all the others.",
        AGREEMENT,
        values,
    )


class _Pooled(ConceptProbe):
    """A probe that pools the tokens of a word in another way."""

    pool: str = "mean"

    def _vote(self, site: Site, query: Tensor, keys: Float[Tensor, "pictures heads all_tokens dim"]) -> None:
        votes = []
        for shown in self.shown[site.layer]:
            chosen = zip(keys, shown.tokens, strict=True)
            key = torch.stack([of_picture[:, tokens] for of_picture, tokens in chosen])
            votes.append(preferred(_pooled(token_attention(query, key, shown), shown, self.pool)))
        self.votes[site.layer] = torch.stack(votes, 1)


def _pooled(
    attention: Float[Tensor, "pictures heads concepts word_tokens"], shown: Shown, pool: str
) -> Float[Tensor, "pictures heads concepts"]:
    """The attention to a word, of that to its tokens."""
    share = shown.share[:, None]
    there = share > 0
    if pool == "mean":
        return (attention * share).sum(-1)
    if pool == "sum":
        return (attention * there).sum(-1)
    if pool == "best":
        return (attention * there).amax(-1)
    after = torch.nn.functional.pad(there[..., 1:], (0, 1))  # is there a token after this one?
    return (attention * (there & ~after)).sum(-1)


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
        "their words of one token: the mean over tokens, the sum, the last, the best (each for itself)."
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
    single = model.measure("words of one token", short)
    rows = [model.concepts.names.index(name) for name in mixed]
    values = {}
    for pool in ("mean", "sum", "last", "best"):
        counted = _counted(model, long, pool)
        values[pool] = _mean(rank_correlation(counted[rows], single.values[rows]))
    return Answer(question, reading, AGREEMENT, values)


def _counted(model: _Model, concepts: ConceptSet, pool: str) -> Int[np.ndarray, "concepts all_heads"]:
    probe, texts = _Pooled(model.pipe, concepts, model.seed, draws=LEAN.draws), read_prompts(None, model.pipe)
    probe.pool = pool
    votes = np.zeros((len(concepts), probe.head_map.all_heads), np.int64)
    with hooked(model.pipe, probe), quiet(model.pipe):
        for numbers in batches(0, model.pictures, model.batch_size, ()):
            probe.begin(numbers)
            generate(model.pipe, texts, model.seed, numbers, output_type="latent", **DRAWN)
            votes += Votes.of_pictures(probe.take(), numbers, probe.head_map, concepts, {}).totals
    return votes


def _novel(model: _Model, whole: Relevance) -> Answer:
    """Leave one concept out: ridge regression from the mean embedding of its words."""
    embedded = model.concepts.embed(model.pipe).words
    texts = np.stack(
        [np.mean([word.double().mean(0).cpu().numpy() for word in words], 0) for words in embedded]
    )
    texts = (texts - texts.mean(0)) / (texts.std(0) + 1e-12)
    alike = texts @ texts.T / texts.shape[1]
    dealt = np.random.Generator(np.random.Philox(model.seed)).permutation(len(alike))
    found = {
        "from the words (ridge)": _foretold(alike, whole.values),
        "words dealt to other concepts": _foretold(alike[np.ix_(dealt, dealt)], whole.values),
        "the most alike concept": np.stack([whole.values[_nearest(alike, c)] for c in range(len(alike))]),
        "the mean of the others": (whole.values.sum(0) - whole.values) / (len(alike) - 1),
    }
    return Answer(
        "Can a concept's relevance be foretold from its words, without measuring?",
        "Each concept in turn is left out and foretold from the embeddings of its words and the relevance of "
        "all others. The mean of the others knows nothing of the concept.",
        AGREEMENT,
        {name: _mean(rank_correlation(values, whole.values)) for name, values in found.items()},
    )


def _nearest(alike: np.ndarray, concept: int) -> int:
    others = alike[concept].copy()
    others[concept] = -np.inf
    return int(others.argmax())


def _foretold(
    alike: Float[np.ndarray, "concepts concepts"], values: Float[np.ndarray, "concepts all_heads"]
) -> Float[np.ndarray, "concepts all_heads"]:
    """Each row from the others; the ridge is chosen without the row, by leaving out one more."""
    found = []
    for concept in range(len(values)):
        others = np.delete(np.arange(len(values)), concept)
        kernel, known = alike[np.ix_(others, others)], values[others]

        ridge = min(RIDGES, key=partial(_left_out_error, kernel, known))
        weights = alike[concept, others] @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
        found.append(known.mean(0) + weights @ (known - known.mean(0)))
    return np.stack(found)


def _transfer(
    model: _Model, whole: Relevance, others: Mapping[str, Any], schedulers: Mapping[str, Any]
) -> Answer:
    own, values = model.pipe.scheduler, {}
    values[f"{type(own).__name__}, its own"] = _mean(_agreement(model.measure("all words"), whole))
    try:
        for name, scheduler in schedulers.items():
            model.pipe.scheduler = scheduler
            values[name] = _mean(_agreement(model.measure(f"scheduler {name}"), whole))
    finally:
        model.pipe.scheduler = own
    for name, other in others.items():
        values[name] = _mean(_agreement(model.measure(f"checkpoint {name}", pipe=other), whole))
    return Answer(
        "Does relevance hold for another scheduler, or another checkpoint?",
        "Measured with each, on the same latents and prompts, held against the whole, of other pictures.",
        AGREEMENT,
        values,
    )


def _steps(whole: Relevance) -> Answer:
    names = ("first three tenths of the calls", "the four in the middle", "last")
    early, _, late = parts = [whole.during(*part) for part in PARTS]
    values = {name: _mean(_agreement(part, whole)) for name, part in zip(names, parts, strict=True)}
    values["first against last"] = _mean(_agreement(early, late))
    values["whole, half of the pictures against the other"] = _mean(whole.split_half)
    return Answer(
        "Is the relevance of early calls that of the whole?",
        "Relevance of a part of the calls, held against that of all.",
        AGREEMENT,
        values,
    )


def _aware(
    model: _Model, relevance: Relevance, pairs: list[Pair], judge: Judge, seeds: tuple[int, ...]
) -> Answer:
    parts = [relevance.during(*part) for part in PARTS]
    found = []
    for attribute, own in _by_attribute(pairs).items():
        moments = np.stack([np.argsort(-part[attribute], kind="stable") for part in parts])
        averaged = np.tile(np.argsort(-relevance[attribute], kind="stable"), (len(parts), 1))
        orders = {"averaged": averaged, "moment": moments, "another moment": np.roll(moments, 1, 0)}
        found.append(_weakened(model, attribute, orders, own, judge, seeds).scores)
    whole = np.concatenate([scores.values for scores in found], -1)
    axes = found[0].axes | {"prompt": range(whole.shape[-1])}
    together = Weakening(Scores(whole, axes, {"score": found[0].settings["score"]}))
    values = {
        f"averaged − moment, {scores.settings['concept']}": Weakening(scores).area("moment", "averaged")
        for scores in found
    }
    values["averaged − moment, all"] = together.area("moment", "averaged")
    values["another moment − moment, all"] = together.area("moment", "another moment")
    return Answer(
        "Is it better to weaken by the relevance of the moment?",
        "The first k heads are weakened, in each part of the calls (three tenths, four, three) by the order "
        "of its own votes, by that of all votes, or by that of the part before. Above 0, the moment's own "
        "order loses the target's word sooner: area between curves over k.",
        "area between curves",
        values,
    )


def _weakened(
    model: _Model,
    attribute: str,
    orders: Mapping[str, Int[np.ndarray, "parts all_heads"]],
    pairs: list[Pair],
    judge: Judge,
    seeds: tuple[int, ...],
) -> Weakening:
    """How often a target's word is seen when the first k heads of the orders of each part are weakened."""
    head_map = HeadMap.of(model.pipe)
    ks = _eighths(head_map.all_heads)
    places = np.argsort(np.stack(list(orders.values())), -1)  # of each head, by order and part
    masks = np.stack([places < k for k in ks], 1).reshape(-1, len(PARTS), head_map.all_heads)
    scores = _seen(attribute, tuple(orders), ks, seeds, pairs)
    steers = [weaken(head_map, masks[:, part], steps=PARTS[part]) for part in range(len(PARTS))]
    targets = [pair.target for pair in pairs]
    with quiet(model.pipe), hooked(model.pipe, *steers):
        for at, pair in enumerate(pairs):
            for s, seed in enumerate(seeds):
                images = generate(model.pipe, targets, seed, [at] * len(masks), output_type="pil", **DRAWN)
                seen = judge.choose(images, [pair.texts] * len(masks)) == 0
                scores.values[:, :, s, at] = seen.reshape(len(orders), len(ks))
    return Weakening(model.keep("aware", scores))


def _by_attribute(pairs: list[Pair]) -> dict[str, list[Pair]]:
    return {
        attribute: [pair for pair in pairs if pair.attribute == attribute]
        for attribute in dict.fromkeys(pair.attribute for pair in pairs)
    }


def _eighths(heads: int) -> tuple[int, ...]:
    return tuple(heads * eighth // 8 for eighth in EIGHTHS)


def _seen(
    attribute: str, orders: tuple[str, ...], ks: tuple[int, ...], seeds: tuple[int, ...], pairs: list[Pair]
) -> Scores:
    """Room for whether each target's word is seen."""
    axes: Axes = {"order": orders, "k": ks, "seed": seeds, "prompt": tuple(pair.target for pair in pairs)}
    return Scores.empty(axes, {"concept": attribute, "score": "the target's word is seen"})


def _patching(
    model: _Model, relevance: Relevance, pairs: list[Pair], judge: Judge, seeds: tuple[int, ...]
) -> Answer:
    values = {}
    for attribute, own in _by_attribute(pairs).items():
        found = _patched(model, relevance, attribute, own, judge, seeds)
        values[f"{attribute}, least − most relevant"] = found.area()
        values[f"{attribute}, random − most relevant"] = found.random()
    return Answer(
        "Do relevant heads carry a word?",
        "What the first k heads hand on is exchanged for what they hand on for a prompt with another word. "
        "The target's word is lost the sooner, the more these heads carry: area between curves over k.",
        "area between curves",
        values,
    )


def _patched(
    model: _Model,
    relevance: Relevance,
    attribute: str,
    pairs: list[Pair],
    judge: Judge,
    seeds: tuple[int, ...],
) -> Weakening:
    """How often the target's word is seen when the first k heads of an order are the source's."""
    heads = relevance.values.shape[1]
    ks = _eighths(heads)
    order = np.argsort(-relevance[attribute], kind="stable")
    random = np.random.Generator(np.random.Philox(model.seed)).permutation(heads)
    orders = {MOST: order, LEAST: order[::-1], "random 0": random}
    chosen = np.zeros((len(orders), len(ks), heads), bool)
    for row, by in enumerate(orders.values()):
        for column, k in enumerate(ks):
            chosen[row, column, by[:k]] = True
    scores = _seen(attribute, tuple(orders), ks, seeds, pairs)
    hook, flat = Patch(chosen.reshape(-1, heads)), len(orders) * len(ks)
    with quiet(model.pipe):
        for at, pair in enumerate(pairs):
            for s, seed in enumerate(seeds):
                group = [pair.source, *[pair.target] * flat]
                (drawn,) = draw_edits(model.pipe, [group], [hook], seeds=[seed], **DRAWN)
                seen = judge.choose(drawn[1:], [pair.texts] * flat) == 0
                scores.values[:, :, s, at] = seen.reshape(len(orders), len(ks))
    return Weakening(model.keep("patching", scores))


def _left_out_error(kernel: np.ndarray, known: np.ndarray, ridge: float) -> float:
    """The squared error of every row foretold from the others, in closed form."""
    centred = known - known.mean(0)
    hat = kernel @ np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    return float((((centred - hat @ centred) / (1 - np.diag(hat))[:, None]) ** 2).sum())
