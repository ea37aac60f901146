r"""Steering written in one line, for the command line and the page.

    red:Color            strengthen the word "red" by the heads of Color
    red:Color*1.5        one and a half times as strongly
    red#2:Color          only its second occurrence
    lavender:Color-Plants        adjust "lavender" toward Color, away from Plants

With relevance measured by effect, the number is a dose (dose.py): red:Color*0.5 adds half of the effect of
"red", and lavender:Color-Plants*0.5 turns the heads of Color up and those of Plants down by at most a
quarter.

Names of concepts may contain spaces and hyphens, and their case does not matter. Words may contain colons;
the last colon ends the word.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from headwise.errors import BadStrength, HeadwiseError, UnknownConcept
from headwise.measuring.relevance import Relevance
from headwise.steering.dose import amplify, contrast
from headwise.steering.steer import Steer, adjust, strengthen

__all__ = ["concepts_named", "parse_steering", "split_steering", "steering_rule"]


def steering_rule(kind: str, two_senses: bool) -> Callable[..., Steer]:
    """The function that steers by relevance of this kind, "votes" or "effect".

    It is `adjust` or `contrast` for a word with two senses, which is turned from one concept toward another,
    and `strengthen` or `amplify` for a word whose effect is raised or lowered.
    """
    if kind == "effect":
        return contrast if two_senses else amplify
    return adjust if two_senses else strengthen


def parse_steering(text: str, relevance: Relevance, times: float | int = 1.0) -> Steer:
    """Make the hook that a line describes.

    Args:
        text: The line, such as "red:Color*1.5" or "lavender:Color-Plants".
        relevance: The relevance, whose concepts may be named.
        times: A factor on the strength, for a series of strengths.

    Raises:
        HeadwiseError: The line is not of this form.
        BadStrength: Its strength is not a number.
        UnknownConcept: It names a concept that was not measured.
    """
    word, concepts, strength = split_steering(text)
    word, occurrence = _occurrence(word)
    toward, away = concepts_named(concepts, relevance.concepts)
    rule = steering_rule(relevance.kind, two_senses=away is not None)
    named = [toward] if away is None else [toward, away]
    return rule(relevance, word, *named, strength * times, occurrence=occurrence)


def split_steering(text: str) -> tuple[str, str, float]:
    """The word, the concepts as they are written, and the strength, which is 1 if none is written.

    Raises:
        HeadwiseError: The line is not of this form.
        BadStrength: Its strength is not a number.
    """
    word, colon, rest = text.rpartition(":")
    if not colon or not word.strip() or not rest.strip():
        raise HeadwiseError(
            f"{text!r} is not a steering. Write WORD:CONCEPT, such as red:Color, or WORD:TOWARD-AWAY, such "
            "as lavender:Color-Plants; append a strength as in *1.5."
        )
    return word.strip(), *_strength(rest.strip(), text)


def _occurrence(word: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+)#(\d+)", word)
    return (match[1], int(match[2])) if match else (word, None)


def _strength(rest: str, text: str) -> tuple[str, float]:
    concepts, star, number = rest.rpartition("*")
    if not star:
        return rest, 1.0
    try:
        return concepts.strip(), float(number)
    except ValueError:
        raise BadStrength(f"{number!r} in {text!r} is not a number. Write a strength such as *1.5.") from None


def concepts_named(spelled: str, names: Sequence[str]) -> tuple[str, str | None]:
    """The one or two concepts that a text names; any of its hyphens may separate two."""
    by_folded = {name.casefold(): name for name in names}
    if spelled.casefold() in by_folded:
        return by_folded[spelled.casefold()], None
    for hyphen in re.finditer("-", spelled):
        pair = [side.strip().casefold() for side in (spelled[: hyphen.start()], spelled[hyphen.end() :])]
        if all(side in by_folded for side in pair):
            return by_folded[pair[0]], by_folded[pair[1]]
    wrong = next(
        (side for side in (s.strip() for s in spelled.split("-")) if side.casefold() not in by_folded),
        spelled,
    )
    near = get_close_matches(wrong.casefold(), list(by_folded), n=1)
    raise UnknownConcept(
        f"{wrong!r} in {spelled!r} is not a concept that was measured. "
        + (f"Did you mean {by_folded[near[0]]!r}? " if near else "")
        + f"The measured concepts are: {', '.join(names)}."
    )
