r"""Which questions each participant gets, in which order: balanced over participants, random for each.

All N items are in one random order, sampled from the study's seed and repeated without end. Participant p
gets the next T items after those of participant p − 1, so that at any time all items were asked equally
often, give or take one. When an item at place q of the order comes up for the v-th time, its images or
answers are rotated by q + v, so that sides are balanced for each participant and for each item. A
participant's items are then shuffled, without the same case twice in a row if possible, and attention checks
are inserted.

Everything is determined by (seed, participant).
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from headwise.study.description import Item, Study

__all__ = ["Trial", "trials_of"]


class Trial(NamedTuple):
    """An item as one participant sees it.

    Args:
        item: The question, the case and the methods.
        options: The codes of the answers in the order in which they are shown; methods if participants choose
            an image.
        check: The code that an attention check asks for; None for an ordinary trial.
    """

    item: Item
    options: tuple[str, ...]
    check: str | None = None


def trials_of(study: Study, participant: int) -> list[Trial]:
    """The trials of a participant, given by number from 0."""
    generator = _generator(study.seed, participant)
    trials = _shuffled(_share(study, participant), generator)
    for n in range(min(study.checks, len(trials))):
        model = trials[int(generator.integers(len(trials)))]
        check = Trial(model.item, model.options, model.options[int(generator.integers(len(model.options)))])
        # spread about evenly, at unpredictable places
        place = (n + 1) * len(trials) / (study.checks + 1) + generator.uniform(-1, 1)
        trials.insert(min(max(1, round(place)), len(trials)), check)
    return trials


def _share(study: Study, participant: int) -> list[Trial]:
    """The trials of the participant's items, before shuffling."""
    items = list(study.items())
    order = _generator(study.seed, -1).permutation(len(items))
    count = min(study.trials, len(items))
    trials = []
    for position in range(participant * count, (participant + 1) * count):
        visit, place = divmod(position, len(items))
        item = items[order[place]]
        question, turn = item.question, place + visit
        options = (*_turned(tuple(question.answers), turn), *question.extra_answers) or _turned(
            item.methods, turn
        )
        trials.append(Trial(item, options))
    return trials


def _turned(options: tuple[str, ...], turn: int) -> tuple[str, ...]:
    start = turn % max(1, len(options))
    return options[start:] + options[:start]


def _shuffled(trials: list[Trial], generator: np.random.Generator) -> list[Trial]:
    """The trials in a random order in which neighbours have different cases, if possible."""
    remaining = [trials[i] for i in generator.permutation(len(trials))]
    spread: list[Trial] = []
    while remaining:
        last = spread[-1].item.case.name if spread else None
        most, count = Counter(trial.item.case.name for trial in remaining).most_common(1)[0]
        urgent = 2 * count > len(remaining) and most != last  # otherwise it would have to follow itself later
        names = {most} if urgent else {trial.item.case.name for trial in remaining} - {last}
        chosen = next((trial for trial in remaining if trial.item.case.name in names), remaining[0])
        remaining.remove(chosen)
        spread.append(chosen)
    return spread


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(key=np.array([seed % 2**64, number % 2**64], dtype=np.uint64))
    )
