r"""Evaluation of the answers: rates, agreement, and tests of one method against another.

A rate is the share of answers, with Wilson's interval, which treats all answers as independent, and with a
bootstrap over cases, which allows for similar answers about one case; quote the wider one.

Methods a and b are compared by the sign test at three units: in each unit the share of successes of a is
compared with that of b, and the units in which they differ are counted.

    answers        one participant's answers about one case
    cases          all participants together; tests whether it would hold for other prompts
    participants   all cases together; tests whether it would hold for other people

A success is an image that is chosen or, if answers are words, the answer that is `right`. Participants who
missed more attention checks than allowed are counted but otherwise excluded; so are the checks.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from headwise.intervals import Interval, bootstrap_interval, wilson
from headwise.study.answers import Answer, Answers
from headwise.study.description import Question, Study
from headwise.study.kappa import fleiss_kappa
from headwise.study.order import trials_of
from headwise.study.signs import holm, sign_test

__all__ = ["Agreement", "Comparison", "Rate", "Results", "as_csv", "results_of"]

UNITS: dict[str, Callable[[Answer], Hashable]] = {
    "answers": lambda a: (a.participant, a.case),
    "cases": lambda a: a.case,
    "participants": lambda a: a.participant,
}


class Rate(NamedTuple):
    """How often an answer was given.

    Args:
        question: The name of the question.
        group: The group of cases; "" for all groups together.
        shown: The methods whose images were on the page.
        answer: The code of the answer, or the chosen method if images are the answers.
        hits: The number of these answers.
        n: The number of all answers.
        share: hits / n with Wilson's interval.
        by_case: hits / n with a bootstrap interval over cases, whose ends are nan for one or two cases.
    """

    question: str
    group: str
    shown: tuple[str, ...]
    answer: str
    hits: int
    n: int
    share: Interval
    by_case: Interval


class Comparison(NamedTuple):
    """The sign test of one method against another.

    Args:
        question: The name of the question.
        group: The group of cases; "" for all groups together.
        first: The method that is tested.
        second: The method it is tested against.
        unit: The unit that is counted: answers, cases or participants.
        wins: In how many units the first method has the larger share of successes.
        losses: In how many units it has the smaller share.
        ties: In how many units the shares are equal.
        p: The exact, two-sided p value of the sign test.
        corrected: p with Holm's correction for all pairs of the question at this unit and group.
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


class Agreement(NamedTuple):
    """The agreement of raters on a question.

    Args:
        question: The name of the question.
        shown: The methods that were shown side by side; () for all of the question's items together.
        items: The number of items with two or more raters.
        ratings: The number of answers to those items.
        kappa: Fleiss' kappa with its interval.
    """

    question: str
    shown: tuple[str, ...]
    items: int
    ratings: int
    kappa: Interval


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Args:
        participants: How many participants `agreed`, `finished`, were `left_out` and have `withdrawn`.
        answers: How many answers were `counted`, were `left_out` with their participants, were to `checks`,
            and `missed` them.
        rates: How often each answer was chosen.
        compared: Tests of methods against each other.
        agreed: The agreement of participants on each question.
    """

    participants: dict[str, int]
    answers: dict[str, int]
    rates: tuple[Rate, ...]
    compared: tuple[Comparison, ...]
    agreed: tuple[Agreement, ...]


def results_of(answers: Answers) -> Results:
    """Evaluate the answers so far."""
    study, everything = answers.study, list(answers)
    excluded = inattentive(study, everything)
    ordinary = [a for a in everything if a.check is None]
    counted = [a for a in ordinary if a.participant not in excluded]
    return Results(
        _participants(study, answers, everything, excluded),
        {
            "counted": len(counted),
            "left_out": len(ordinary) - len(counted),
            "checks": len(everything) - len(ordinary),
            "missed": sum(map(_missed, everything)),
        },
        tuple(rate for q in study.questions for rate in _rates(study, q, counted)),
        tuple(test for q in study.questions for test in _tests(study, q, counted)),
        tuple(agreed for q in study.questions for agreed in _agreed(study, q, counted)),
    )


def as_csv(answers: Answers) -> str:
    """One line per answer, including excluded answers and checks, which are marked."""
    study, everything = answers.study, list(answers)
    excluded = inattentive(study, everything)
    group = {case.name: case.group for case in study.cases}
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*Answer._fields[:4], "group", *Answer._fields[4:], "missed", "left_out"])
    for a in everything:
        shown, options = " | ".join(a.shown), " | ".join(a.options)
        row = [a.participant, a.trial, a.question, a.case, group[a.case], shown, options, a.answer]
        row += [a.check or "", f"{a.seconds:.3f}", a.at, int(_missed(a)), int(a.participant in excluded)]
        lines.writerow(row)
    return text.getvalue()


def inattentive(study: Study, answers: Iterable[Answer]) -> set[int]:
    """The participants who missed more attention checks than are allowed."""
    misses: dict[int, int] = defaultdict(int)
    for answer in answers:
        misses[answer.participant] += _missed(answer)
    return {participant for participant, count in misses.items() if count > study.allowed_misses}


def _missed(answer: Answer) -> bool:
    return answer.check is not None and answer.answer != answer.check


def _participants(study: Study, store: Answers, answers: list[Answer], excluded: set[int]) -> dict[str, int]:
    everyone, total = store.participants(), len(trials_of(study, 0))
    finished = [a.participant for a in answers if a.trial == total - 1]
    return {
        "agreed": len(everyone),
        "finished": len(finished),
        "left_out": len(excluded),
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
    """The groups of methods shown side by side in these answers, in the order of the study."""
    pictured = {a.shown for a in answers}
    groups = dict.fromkeys(item.methods for item in study.items() if item.question == question)
    return [methods for methods in groups if methods in pictured]


def _rates(study: Study, question: Question, answers: list[Answer]) -> Iterator[Rate]:
    for group, in_group in _groups(study, [a for a in answers if a.question == question.name]):
        for shown in _shown(study, question, in_group):
            of_shown = [a for a in in_group if a.shown == shown]
            for code in (*question.answers, *question.extra_answers) or shown:
                yield _rate(question.name, group, shown, code, of_shown)


def _rate(question: str, group: str, shown: tuple[str, ...], code: str, answers: list[Answer]) -> Rate:
    of_case: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer in answers:
        of_case[answer.case][0] += answer.answer == code
        of_case[answer.case][1] += 1
    table = np.array(list(of_case.values()), np.float64)
    hits, n = (int(total) for total in table.sum(0))
    by_case = bootstrap_interval(table, lambda mean: mean[0] / mean[1])
    return Rate(question, group, shown, code, hits, n, wilson(hits, n), by_case)


def _tests(study: Study, question: Question, answers: list[Answer]) -> Iterator[Comparison]:
    if question.answers and question.right is None:
        return
    to_question = [a for a in answers if a.question == question.name]
    methods = tuple(dict.fromkeys(method for a in to_question for method in a.shown))
    pairs = dict.fromkeys(p for group in question.compared(methods) for p in combinations(group, 2))
    for group, in_group in _groups(study, to_question):
        for unit in UNITS:
            tests = [_test(question, group, pair, unit, in_group) for pair in pairs]
            tests = [test for test in tests if test.wins + test.losses + test.ties]
            corrected = holm([test.p for test in tests])
            yield from (t._replace(corrected=p) for t, p in zip(tests, corrected, strict=True))


def _test(
    question: Question, group: str, pair: tuple[str, str], unit: str, answers: list[Answer]
) -> Comparison:
    """The sign test of the differences in success, over the units in which both methods were rated."""
    rated: dict[Hashable, tuple[list[bool], list[bool]]] = defaultdict(lambda: ([], []))
    for answer in answers:
        if question.answers or set(pair) <= set(answer.shown):
            for side, method in enumerate(pair):
                if method in answer.shown:
                    rated[UNITS[unit](answer)][side].append(answer.answer == (question.right or method))
    differences = [sum(a) / len(a) - sum(b) / len(b) for a, b in rated.values() if a and b]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    ties = len(differences) - wins - losses
    return Comparison(question.name, group, *pair, unit, wins, losses, ties, sign_test(wins, losses))


def _agreed(study: Study, question: Question, answers: list[Answer]) -> Iterator[Agreement]:
    to_question = [a for a in answers if a.question == question.name]
    comparisons = _shown(study, question, to_question)
    for shown in [()] + comparisons * (not question.answers and len(comparisons) > 1):
        by_item: dict[Hashable, list[str | int]] = defaultdict(list)
        for a in to_question:
            if shown in ((), a.shown):
                # across several comparisons answers can only agree in position: first or second method
                code = a.answer if question.answers else a.shown.index(a.answer)
                by_item[a.case, a.shown].append(code)
        rated = [item_codes for item_codes in by_item.values() if len(item_codes) > 1]
        codes = sorted({code for item_codes in rated for code in item_codes}, key=str)
        counts = np.array([[item_codes.count(code) for code in codes] for item_codes in rated], np.int64)
        kappa = fleiss_kappa(counts.reshape(len(rated), len(codes)))
        yield Agreement(question.name, shown, len(rated), int(counts.sum()), kappa)
