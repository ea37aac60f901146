r"""What the answers say: rates, agreement, and tests of one method against another.

A rate is the share of answers, with Wilson's interval as if all answers were independent, and with a
bootstrap over cases, which allows that answers about one case are alike; the wider one is the one to quote.

Methods a and b are tested by signs, at three units: for each unit the share of successes of a is compared
with that of b, and units in which they differ are counted.

    answers        one participant's answers about one case: this participant, this case
    cases          all participants together: would it hold for other prompts?
    participants   all cases together: would it hold for other people?

A success is to be chosen or, where answers are words, the answer that is `right`. Participants who missed
more attention checks than are allowed are counted, and left out of everything else; so are the checks.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from headwise.intervals import Interval, bootstrap, wilson
from headwise.study.answers import Answer, Answers
from headwise.study.description import Question, Study
from headwise.study.kappa import fleiss_kappa
from headwise.study.order import trials_of
from headwise.study.signs import holm, sign_test

__all__ = ["Agreed", "Compared", "Rate", "Results", "as_csv", "results_of"]

UNITS: dict[str, Callable[[Answer], Hashable]] = {
    "answers": lambda a: (a.participant, a.case),
    "cases": lambda a: a.case,
    "participants": lambda a: a.participant,
}


class Rate(NamedTuple):
    """How often an answer was given.

    Args:
        question, group: Which; "" is all groups.
        shown: The methods whose pictures were shown.
        answer: The code; the method that was chosen, where pictures are the answers.
        hits, n: So often, of so many answers.
        share: With Wilson's interval.
        by_case: With the bootstrap interval over cases; nan of one case.
    """

    question: str
    group: str
    shown: tuple[str, ...]
    answer: str
    hits: int
    n: int
    share: Interval
    by_case: Interval


class Compared(NamedTuple):
    """One method against another, by signs.

    Args:
        question, group: Which; "" is all groups.
        first, second: The methods.
        unit: What is counted: answers, cases or participants.
        wins, losses, ties: Of the first.
        p: Exact, two-sided.
        corrected: The same by Holm, for all pairs of the question at this unit and group.
    """

    question: str
    group: str
    first: str
    second: str
    unit: str
    wins: int
    losses: int
    ties: int
    p: float
    corrected: float = 1.0


class Agreed(NamedTuple):
    """How far raters agree on a question.

    Args:
        question: Which.
        shown: The methods side by side; () is all of the question's items.
        items, ratings: Of items with two raters or more.
        kappa: Fleiss', with its interval.
    """

    question: str
    shown: tuple[str, ...]
    items: int
    ratings: int
    kappa: Interval


@dataclass(frozen=True)
class Results:
    """What a study found.

    Args:
        participants: How many `agreed`, `finished`, were `left_out`, have `withdrawn`.
        answers: How many were `counted`, `left_out` with their participants, were `checks`, were `missed`.
        rates, compared, agreed: The tables.
    """

    participants: dict[str, int]
    answers: dict[str, int]
    rates: tuple[Rate, ...]
    compared: tuple[Compared, ...]
    agreed: tuple[Agreed, ...]


def results_of(answers: Answers) -> Results:
    """What the answers so far say."""
    study, everything = answers.study, list(answers)
    out = inattentive(study, everything)
    real = [a for a in everything if a.check is None]
    counted = [a for a in real if a.participant not in out]
    return Results(
        _participants(study, answers, everything, out),
        {
            "counted": len(counted),
            "left_out": len(real) - len(counted),
            "checks": len(everything) - len(real),
            "missed": sum(map(_missed, everything)),
        },
        tuple(rate for q in study.questions for rate in _rates(study, q, counted)),
        tuple(test for q in study.questions for test in _tests(study, q, counted)),
        tuple(agreed for q in study.questions for agreed in _agreed(study, q, counted)),
    )


def as_csv(answers: Answers) -> str:
    """One line an answer, those left out and the checks as well, each marked."""
    study, everything = answers.study, list(answers)
    out = inattentive(study, everything)
    group = {case.name: case.group for case in study.cases}
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*Answer._fields[:4], "group", *Answer._fields[4:], "missed", "left_out"])
    for a in everything:
        shown, options = " | ".join(a.shown), " | ".join(a.options)
        row = [a.participant, a.trial, a.question, a.case, group[a.case], shown, options, a.answer]
        row += [a.check or "", f"{a.seconds:.3f}", a.at, int(_missed(a)), int(a.participant in out)]
        lines.writerow(row)
    return text.getvalue()


def inattentive(study: Study, answers: Iterable[Answer]) -> set[int]:
    """Who missed more attention checks than are allowed."""
    misses: dict[int, int] = defaultdict(int)
    for answer in answers:
        misses[answer.participant] += _missed(answer)
    return {participant for participant, count in misses.items() if count > study.allowed_misses}


def _missed(answer: Answer) -> bool:
    return answer.check is not None and answer.answer != answer.check


def _participants(study: Study, answers: Answers, given: list[Answer], out: set[int]) -> dict[str, int]:
    everyone, total = answers.participants(), len(trials_of(study, 0))
    each = [a.participant for a in given if a.trial == total - 1]
    return {
        "agreed": len(everyone),
        "finished": len(each),
        "left_out": len(out),
        "withdrawn": sum(participant.withdrew for participant in everyone),
    }


def _groups(study: Study, answers: list[Answer]) -> Iterator[tuple[str, list[Answer]]]:
    """All answers, and those of each group of cases, if there are several."""
    group_of = {case.name: case.group for case in study.cases}
    yield "", answers
    names = list(dict.fromkeys(group for group in group_of.values() if group))
    for name in names if len(names) > 1 else []:
        yield name, [a for a in answers if group_of[a.case] == name]


def _shown(study: Study, question: Question, answers: list[Answer]) -> list[tuple[str, ...]]:
    """What was shown together in these answers, in the order of the study."""
    seen = {a.shown for a in answers}
    return [m for m in dict.fromkeys(i.methods for i in study.items() if i.question == question) if m in seen]


def _rates(study: Study, question: Question, answers: list[Answer]) -> Iterator[Rate]:
    mine = [a for a in answers if a.question == question.name]
    for group, some in _groups(study, mine):
        for shown in _shown(study, question, some):
            of_shown = [a for a in some if a.shown == shown]
            for code in (*question.answers, *question.also) or shown:
                yield _rate(question.name, group, shown, code, of_shown)


def _rate(question: str, group: str, shown: tuple[str, ...], code: str, answers: list[Answer]) -> Rate:
    of_case: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer in answers:
        of_case[answer.case][0] += answer.answer == code
        of_case[answer.case][1] += 1
    table = np.array(list(of_case.values()), np.float64)
    hits, n = (int(total) for total in table.sum(0))
    by_case = Interval(hits / n, float("nan"), float("nan"))
    if len(table) > 1:
        by_case = Interval(*(float(x) for x in bootstrap(table, lambda mean: mean[0] / mean[1])))
    return Rate(question, group, shown, code, hits, n, wilson(hits, n), by_case)


def _tests(study: Study, question: Question, answers: list[Answer]) -> Iterator[Compared]:
    if question.answers and question.right is None:
        return
    mine = [a for a in answers if a.question == question.name]
    seen = tuple(dict.fromkeys(method for a in mine for method in a.shown))
    pairs = dict.fromkeys(p for group in question.compared(seen) for p in combinations(group, 2))
    for group, some in _groups(study, mine):
        for unit in UNITS:
            tests = [_test(question, group, pair, unit, some) for pair in pairs]
            tests = [test for test in tests if test.wins + test.losses + test.ties]
            corrected = holm([test.p for test in tests])
            yield from (t._replace(corrected=p) for t, p in zip(tests, corrected, strict=True))


def _test(
    question: Question, group: str, pair: tuple[str, str], unit: str, answers: list[Answer]
) -> Compared:
    """Signs of the differences in success, over the units in which both methods were judged."""
    judged: dict[Hashable, tuple[list[bool], list[bool]]] = defaultdict(lambda: ([], []))
    for answer in answers:
        if question.answers or set(pair) <= set(answer.shown):
            for side, method in enumerate(pair):
                if method in answer.shown:
                    judged[UNITS[unit](answer)][side].append(answer.answer == (question.right or method))
    differences = [sum(a) / len(a) - sum(b) / len(b) for a, b in judged.values() if a and b]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    ties = len(differences) - wins - losses
    return Compared(question.name, group, *pair, unit, wins, losses, ties, sign_test(wins, losses))


def _agreed(study: Study, question: Question, answers: list[Answer]) -> Iterator[Agreed]:
    mine = [a for a in answers if a.question == question.name]
    comparisons = _shown(study, question, mine)
    for shown in [()] + comparisons * (not question.answers and len(comparisons) > 1):
        of_item: dict[Hashable, list[str | int]] = defaultdict(list)
        for a in mine:
            if shown in ((), a.shown):
                # of several comparisons it is the place that can be the same: the first named, or the second
                code = a.answer if question.answers else a.shown.index(a.answer)
                of_item[a.case, a.shown].append(code)
        rated = [given for given in of_item.values() if len(given) > 1]
        codes = sorted({code for given in rated for code in given}, key=str)
        counts = np.array([[given.count(code) for code in codes] for given in rated], dtype=np.int64)
        kappa = fleiss_kappa(counts.reshape(len(rated), len(codes)))
        yield Agreed(question.name, shown, len(rated), int(counts.sum()), kappa)
