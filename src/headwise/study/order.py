r"""What each participant is asked, and in which order: balanced over participants, random to each.

All items stand in one order, drawn by the study's seed, that is walked round and round. Participant p is
asked the next T of its N items after those of participant p − 1, so that at any time every item was given out
as often as any other, give or take one. Where an item comes up for the v-th time, from place q of the round,
its pictures or answers are turned by q + v: first to one side, then to the other, for each participant and
for each item alike. What a participant was given is then shuffled, the same case never twice in a row where
that can be avoided, with the attention checks in between.

Everything follows from (seed, participant).
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from headwise.study.description import Item, Study

__all__ = ["Trial", "trials_of"]


class Trial(NamedTuple):
    """An item as one participant is asked it.

    Args:
        item: The question, the case and the methods.
        options: Codes of the answers in the order in which they stand; methods, where pictures are the
            answers.
        check: The code that an attentive participant chooses; None where this is no attention check.
    """

    item: Item
    options: tuple[str, ...]
    check: str | None = None


def trials_of(study: Study, participant: int) -> list[Trial]:
    """What a participant, counted from 0, is asked."""
    generator = _generator(study.seed, participant)
    given = _apart(_given(study, participant), generator)
    for n in range(min(study.checks, len(given))):
        model = given[int(generator.integers(len(given)))]
        check = Trial(model.item, model.options, model.options[int(generator.integers(len(model.options)))])
        # about evenly, but not so that one could wait for it
        place = (n + 1) * len(given) / (study.checks + 1) + generator.uniform(-1, 1)
        given.insert(min(max(1, round(place)), len(given)), check)
    return given


def _given(study: Study, participant: int) -> list[Trial]:
    """The participant's share of the items, not shuffled yet."""
    items = list(study.items())
    order = _generator(study.seed, -1).permutation(len(items))
    count = min(study.trials, len(items))
    trials = []
    for position in range(participant * count, (participant + 1) * count):
        visit, place = divmod(position, len(items))
        item = items[order[place]]
        question, turn = item.question, place + visit
        options = (*_turned(tuple(question.answers), turn), *question.also) or _turned(item.methods, turn)
        trials.append(Trial(item, options))
    return trials


def _turned(options: tuple[str, ...], turn: int) -> tuple[str, ...]:
    start = turn % max(1, len(options))
    return options[start:] + options[:start]


def _apart(trials: list[Trial], generator: np.random.Generator) -> list[Trial]:
    """Shuffled so that neighbours are of different cases, if that can be."""
    left = [trials[i] for i in generator.permutation(len(trials))]
    spread: list[Trial] = []
    while left:
        last = spread[-1].item.case.name if spread else None
        most, count = Counter(trial.item.case.name for trial in left).most_common(1)[0]
        urgent = 2 * count > len(left) and most != last  # later it would have to follow itself
        fitting = (t for t in left if t.item.case.name != last and (not urgent or t.item.case.name == most))
        chosen = next(fitting, left[0])
        left.remove(chosen)
        spread.append(chosen)
    return spread


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(key=np.array([seed % 2**64, number % 2**64], dtype=np.uint64))
    )
