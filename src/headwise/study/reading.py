"""Reading `study.toml`: what is misspelt, missing or asks for what is not there is refused by name."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headwise.errors import UnreadableStudy
from headwise.pictures import read_picture
from headwise.study.description import Case, Question, Study, filled, inside

__all__ = ["NAME", "parse_study", "read_study"]

NAME = "study.toml"
CHECK = "This one checks that questions are read. Whatever you see, choose “{answer}”."
THANKS = "Thank you. Your answers are saved; you can close this page."


def parse_study(source: str) -> Study:
    """The study that the text of a `study.toml` describes.

    Raises:
        UnreadableStudy: It breaks a rule, which is named.
    """
    try:
        given = _Table(tomllib.loads(source), "the file")
    except tomllib.TOMLDecodeError as error:
        raise UnreadableStudy(f"{NAME} is not valid TOML: {error}.") from None
    study = Study(
        given.take("title", str),
        given.take("consent", str),
        given.take("thanks", str, THANKS),
        tuple(_question(table) for table in given.tables("questions")),
        tuple(_case(table) for table in given.tables("cases")),
        given.take("seed", int, 0),
        given.take("trials", int, 40),
        given.take("checks", int, 2),
        given.take("allowed_misses", int, 0),
        given.take("check", str, CHECK),
        source,
    )
    given.require_all_taken()
    _require_sense(study)
    return study


def read_study(folder: str | Path) -> Study:
    """The study of a folder, all of whose pictures are there.

    Raises:
        UnreadableStudy: `study.toml` is missing or breaks a rule, or a picture is outside of the folder.
        UnreadableFile: A picture is missing or damaged.
    """
    path = Path(folder) / NAME
    try:
        study = parse_study(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UnreadableStudy(
            f"{path} cannot be read: {why}. Make one with `headwise study make`, or write it."
        ) from None
    for name in study.pictures():
        read_picture(inside(Path(folder), name))
    return study


class _Table:
    """A table of the file: what is taken from it is checked, and what nobody takes is a mistake."""

    def __init__(self, given: Any, where: str) -> None:
        if not isinstance(given, dict):
            raise UnreadableStudy(f"{NAME}: {where} is {given!r}; expected a table.")
        self.left, self.known, self.where = dict(given), [], where  # type: ignore[var-annotated]

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, of a kind; without a default it must be there."""
        self.known.append(key)
        found = self.left.pop(key, default)
        if found is None:
            raise UnreadableStudy(f"{NAME}: {self.where} lacks {key!r}.")
        if type(found) is not kind or found == "" or (kind is int and found < 0):
            raise UnreadableStudy(f"{NAME}: {key} of {self.where} is {found!r}; expected {_EXPECTED[kind]}.")
        return found

    def texts(self, key: str) -> dict[str, str]:
        """A table of texts, empty if it is not there."""
        found = self.take(key, dict, {})
        if not all(type(text) is str and text for text in found.values()):
            raise UnreadableStudy(f"{NAME}: {key} of {self.where} is {found!r}; expected texts by name.")
        return found

    def groups(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of lists of two names or more, empty if it is not there."""
        found = self.take(key, list, [])
        if not all(type(g) is list and len(set(map(str, g))) == len(g) >= 2 for g in found):
            raise UnreadableStudy(
                f"{NAME}: {key} of {self.where} is {found!r}; expected lists of two different methods or "
                'more, such as [["ours", "theirs"]].'
            )
        return tuple(tuple(map(str, group)) for group in found)

    def tables(self, key: str) -> Iterator["_Table"]:
        """The tables of [[key]], one at least."""
        for number, table in enumerate(self.take(key, list, []), 1):
            yield _Table(table, f"number {number} of [[{key}]]")

    def require_all_taken(self) -> None:
        """Refuse what is misspelt."""
        for key in self.left:
            near = difflib.get_close_matches(key, self.known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else f" The keys are: {', '.join(self.known)}."
            raise UnreadableStudy(f"{NAME}: {self.where} has an unknown key {key!r}.{hint}")


_EXPECTED: dict[type, str] = {
    str: "a text",
    int: "a whole number, 0 or more",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def _question(given: _Table) -> Question:
    question = Question(
        given.take("name", str),
        given.take("text", str),
        given.texts("answers"),
        given.texts("also"),
        given.take("right", str) if "right" in given.left else None,
        given.groups("compare"),
        given.take("reference", bool, False),
    )
    given.known.append("right")
    given.require_all_taken()
    codes = [*question.answers, *question.also]
    if question.answers and len(codes) < 2 or len(set(codes)) < len(codes):
        raise UnreadableStudy(f"{NAME}: {given.where} has the answers {codes}; expected two or more.")
    if question.also and not question.answers:
        raise UnreadableStudy(f"{NAME}: {given.where} has `also` but no `answers`: where pictures are the "
                              "answers, one of them must be chosen.")  # fmt: skip
    if question.right not in (None, *codes):
        raise UnreadableStudy(
            f"{NAME}: right of {given.where} is {question.right!r}; expected one of {codes}."
        )
    return question


def _case(given: _Table) -> Case:
    case = Case(
        given.take("name", str),
        given.texts("pictures"),
        given.take("reference", str) if "reference" in given.left else None,
        given.take("group", str) if "group" in given.left else "",
        given.texts("say"),
    )
    given.known += ["reference", "group"]
    given.require_all_taken()
    if not case.pictures:
        raise UnreadableStudy(f"{NAME}: {given.where} has no pictures.")
    return case


def _require_sense(study: Study) -> None:
    """What no table knows alone."""
    for kind, names in (
        ("questions", [q.name for q in study.questions]),
        ("cases", [c.name for c in study.cases]),
    ):
        if not names or len(set(names)) < len(names):
            raise UnreadableStudy(f"{NAME} has the {kind} {names}; expected one or more, of different names.")
    methods = {method for case in study.cases for method in case.pictures}
    for question in study.questions:
        unknown = [m for group in question.compare for m in group if m not in methods]
        if unknown:
            raise UnreadableStudy(
                f"{NAME}: {question.name!r} compares {unknown[0]!r}, of which no case has a picture. There "
                f"are pictures of: {', '.join(sorted(methods))}."
            )
    asked = {item.question.name for item in study.items()}
    for question in study.questions:
        if question.name not in asked:
            raise UnreadableStudy(f"{NAME}: there is no case that {question.name!r} can be asked of.")
    if study.trials == 0:
        raise UnreadableStudy(f"{NAME}: trials is 0; expected how many questions a participant is asked.")
    _said(study.check, {"answer": "", **study.cases[0].say}, "check")
    for item in study.items():
        where = f"{item.question.name!r} of case {item.case.name!r}"
        _said(item.question.text, item.case.say, where)
        answers = (*item.question.answers.values(), *item.question.also.values())
        labels = [_said(text, item.case.say, where) for text in answers]
        if len(set(labels)) < len(labels):
            raise UnreadableStudy(f"{NAME}: {where} has answers that read alike: {labels}.")
        if item.question.reference and item.case.reference is None:
            raise UnreadableStudy(f"{NAME}: {where} shows a reference, but the case has none.")


def _said(template: str, say: Mapping[str, str], where: str) -> str:
    try:
        return filled(template, say)
    except KeyError as error:
        raise UnreadableStudy(
            f"{NAME}: {where} asks for {{{error.args[0]}}}, which the case does not say; it says: "
            f"{', '.join(say) or 'nothing'}."
        ) from None
