r"""A study: a folder of images with a `study.toml`, which has the questions about them.

    title = "Which edit is better?"
    consent = "…"

    [[questions]]                                   [[questions]]
    name = "fit"                                    name = "sense"
    text = "Which image fits “{target}” better?"    text = "Which sense of “{word}” is this?"
    compare = [["ours", "theirs"]]                  answers = { color = "the color", fruit = "{fruit}" }
                                                    also = { neither = "neither of them" }
    [[cases]]
    name = "003"
    say = { target = "a red car" }
    pictures = { ours = "003 a.png", theirs = "003 b.png" }

A question without answers shows images of several methods side by side, and participants choose one; a
question with answers shows one image and the answers. {…} is replaced by the text of that name in the case's
`say`.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from headwise.errors import UnreadableStudy

__all__ = ["Case", "Item", "Question", "Study", "fill_in", "path_inside"]

TOML_NAMES = {"extra_answers": "also", "fields": "say"}


@dataclass(frozen=True)
class Question:
    """A question about cases.

    Args:
        name: The question's name in tables.
        text: The text that participants read; {…} is replaced by a field of the case.
        answers: The label of each answer by its code, shown in a random order; empty if participants choose
            an image.
        extra_answers: Answers that always come last, such as both, neither or cannot tell (`also` in
            study.toml).
        right: The code of the answer that counts as success; None if none does.
        compare: Groups of methods whose images are shown together or, if there are `answers`, tested against
            each other. All pairs if empty.
        reference: Whether the case's reference image is shown.
    """

    name: str
    text: str
    answers: Mapping[str, str] = field(default_factory=dict)
    extra_answers: Mapping[str, str] = field(default_factory=dict)
    right: str | None = None
    compare: tuple[tuple[str, ...], ...] = ()
    reference: bool = False

    def compared(self, methods: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """The groups of methods that can be compared if there are images of these methods."""
        groups = self.compare or tuple(itertools.combinations(methods, 2))
        return tuple(group for group in groups if set(group) <= set(methods))


@dataclass(frozen=True)
class Case:
    """One prompt, or another input of the methods, and the images that they generated from it.

    Args:
        name: The case's name in tables.
        pictures: The image of each method, as a path within the folder of the study.
        reference: The path of another image, such as the one before the edit.
        group: The group to which the case belongs; results are reported per group as well.
        fields: The texts that replace {…} in questions, by name (`say` in study.toml).
    """

    name: str
    pictures: Mapping[str, str]
    reference: str | None = None
    group: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


class Item(NamedTuple):
    """A question about a case: about the image of one method, or of several side by side."""

    question: Question
    case: Case
    methods: tuple[str, ...]

    def text(self) -> str:
        """The text that participants read."""
        return fill_in(self.question.text, self.case.fields)

    def label(self, code: str) -> str:
        """The label of one of the question's answers."""
        return fill_in((dict(self.question.answers) | self.question.extra_answers)[code], self.case.fields)


@dataclass(frozen=True)
class Study:
    """A study, as study.toml describes it.

    Args:
        title: The title of the page.
        consent: The text to which participants agree before anything is shown.
        thanks: The text at the end.
        questions: The questions.
        cases: The cases that the questions are about.
        seed: The seed of all orders.
        trials: The number of questions per participant.
        checks: The number of attention checks added to them.
        allowed_misses: Participants who miss more checks than this are excluded from the results.
        check: The text of an attention check.
        source: The text from which the study was read.
    """

    title: str
    consent: str
    thanks: str
    questions: tuple[Question, ...]
    cases: tuple[Case, ...]
    seed: int
    trials: int
    checks: int
    allowed_misses: int
    check: str
    source: str

    def pictures(self) -> list[str]:
        """The paths of all images, each once."""
        paths = [path for case in self.cases for path in (*case.pictures.values(), case.reference) if path]
        return list(dict.fromkeys(paths))

    def items(self) -> Iterator[Item]:
        """All questions about all cases, in a fixed order."""
        for question in self.questions:
            for case in self.cases:
                methods = tuple(case.pictures)
                groups = question.compared(methods)
                if question.answers:
                    named = [m for group in question.compare for m in group]
                    groups = tuple((m,) for m in methods if not named or m in named)
                for group in groups:
                    yield Item(question, case, group)

    def fingerprint(self, folder: str | Path) -> str:
        """A hash of everything that answers depend on: questions, cases, order, and images."""
        bytes_of = {
            name: sha256(path_inside(Path(folder), name).read_bytes()).hexdigest() for name in self.pictures()
        }
        design = [self.questions, self.cases, bytes_of, self.seed, self.trials, self.checks]
        return sha256(json.dumps(design, default=_by_toml_name, sort_keys=True).encode()).hexdigest()


def path_inside(folder: Path, name: str) -> Path:
    """A path within the folder; refuses dots and links that lead out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UnreadableStudy(f"{name!r} is outside of {folder}. Put the images into the study's folder.")
    return path


def fill_in(template: str, fields: Mapping[str, str]) -> str:
    """A text with {…} replaced by the fields of a case."""
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], template)


def _by_toml_name(described: Question | Case) -> dict[str, Any]:
    """The fields of a question or case by their names in study.toml, as fingerprints use them."""
    return {TOML_NAMES.get(name, name): value for name, value in vars(described).items()}
