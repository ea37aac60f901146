r"""What is asked: a folder of pictures, and `study.toml` beside them.

    title = "Which edit is better?"
    consent = "…"

    [[questions]]                                   [[questions]]
    name = "fit"                                    name = "sense"
    text = "Which picture fits “{target}” better?"  text = "Which sense of “{word}” is this?"
    compare = [["ours", "theirs"]]                  answers = { color = "the color", fruit = "{fruit}" }
                                                    also = { neither = "neither of them" }
    [[cases]]
    name = "003"
    say = { target = "a red car" }
    pictures = { ours = "003 a.png", theirs = "003 b.png" }

A question without answers shows pictures of several methods side by side, and one of them is chosen; a
question with answers shows one picture and the answers. {…} stands for what the case has to `say`.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from headwise.errors import UnreadableStudy

__all__ = ["Case", "Item", "Question", "Study", "filled", "inside"]


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        name: In tables.
        text: As it is asked.
        answers: Code and label of each answer, in an order that is drawn; none where a picture is the answer.
        also: Further answers, always at the end: both, neither, cannot tell.
        right: The code of the answer that counts as success, where one does.
        compare: Methods whose pictures are shown together or, where answers are given, tested against each
            other. All pairs if empty.
        reference: Whether the case's reference picture is shown.
    """

    name: str
    text: str
    answers: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    right: str | None = None
    compare: tuple[tuple[str, ...], ...] = ()
    reference: bool = False

    def compared(self, methods: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """The groups that can be compared where there are pictures of these methods."""
        groups = self.compare or tuple(itertools.combinations(methods, 2))
        return tuple(group for group in groups if set(group) <= set(methods))


@dataclass(frozen=True)
class Case:
    """One prompt, or whatever the methods were given, and their pictures.

    Args:
        name: In tables.
        pictures: By method; paths within the folder of the study.
        reference: Another picture, such as the one that was edited.
        group: Results are given for each group, too.
        say: What {…} stands for.
    """

    name: str
    pictures: Mapping[str, str]
    reference: str | None = None
    group: str = ""
    say: Mapping[str, str] = field(default_factory=dict)


class Item(NamedTuple):
    """A question about a case: of the picture of one method, or of several side by side."""

    question: Question
    case: Case
    methods: tuple[str, ...]

    def text(self) -> str:
        """As it is asked."""
        return filled(self.question.text, self.case.say)

    def label(self, code: str) -> str:
        """Of one of the question's answers."""
        return filled((dict(self.question.answers) | self.question.also)[code], self.case.say)


@dataclass(frozen=True)
class Study:
    """What is asked, and how much of it.

    Args:
        title, consent, thanks: For the participant; the consent text is agreed to before anything is shown.
        questions, cases: What is asked about what.
        seed: Of every order.
        trials: Questions asked of a participant.
        checks: Attention checks among them.
        allowed_misses: A participant who misses more checks is left out of the results.
        check: How a check is put.
        source: The text it was read from.
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
        """The paths of all pictures, each once."""
        found = [path for case in self.cases for path in (*case.pictures.values(), case.reference) if path]
        return list(dict.fromkeys(found))

    def items(self) -> Iterator[Item]:
        """Everything that can be asked, always in the same order."""
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
        """Of all that gives an answer its meaning: questions, cases, order, and the pictures' own bytes."""
        bytes_of = {
            name: sha256(inside(Path(folder), name).read_bytes()).hexdigest() for name in self.pictures()
        }
        design = [self.questions, self.cases, bytes_of, self.seed, self.trials, self.checks]
        return sha256(json.dumps(design, default=vars, sort_keys=True).encode()).hexdigest()


def inside(folder: Path, name: str) -> Path:
    """A path that cannot leave the folder, by whatever dots or links."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UnreadableStudy(f"{name!r} lies outside of {folder}. Put the pictures into the study's folder.")
    return path


def filled(template: str, say: Mapping[str, str]) -> str:
    """A text with what a case has to say in the place of {…}."""
    return re.sub(r"\{(\w+)\}", lambda found: say[found[1]], template)
