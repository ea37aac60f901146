"""Reading `study.toml`: misspelt and missing keys, and values out of range, are refused by name."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headwise.errors import UnreadableStudy
from headwise.pictures import read_picture
from headwise.study.description import Case, Question, Study, fill_in, path_inside

__all__ = ["NAME", "parse_study", "read_study"]

NAME = "study.toml"
CHECK = "This question checks your attention. Whatever you see, choose “{answer}”."
THANKS = "Thank you. Your answers are saved; you can close this page."
EXPECTED: dict[type, str] = {
    str: "a text",
    int: "a whole number, 0 or more",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def parse_study(source: str) -> Study:
    """The study that the text of a `study.toml` describes.

    Raises:
        UnreadableStudy: The text is not a valid study; the message names the fault.
    """
    try:
        table = _Table(tomllib.loads(source), "the file")
    except tomllib.TOMLDecodeError as error:
        raise UnreadableStudy(f"{NAME} is not valid TOML: {error}.") from None
    study = Study(
        title=table.take("title", str),
        consent=table.take("consent", str),
        thanks=table.take("thanks", str, THANKS),
        questions=tuple(_question(inner) for inner in table.tables("questions")),
        cases=tuple(_case(inner) for inner in table.tables("cases")),
        seed=table.take("seed", int, 0),
        trials=table.take("trials", int, 40),
        checks=table.take("checks", int, 2),
        allowed_misses=table.take("allowed_misses", int, 0),
        check=table.take("check", str, CHECK),
        source=source,
    )
    table.refuse_unknown_keys()
    _check_study(study)
    return study


def read_study(folder: str | Path) -> Study:
    """Read the study of a folder, and check that all its images are readable.

    Raises:
        UnreadableStudy: `study.toml` is missing or not valid, or an image is outside of the folder.
        UnreadableFile: An image is missing or damaged.
    """
    path = Path(folder) / NAME
    try:
        study = parse_study(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UnreadableStudy(
            f"{path} cannot be read: {why}. Create one with `headwise study make`, or by hand."
        ) from None
    for name in study.pictures():
        read_picture(path_inside(Path(folder), name))
    return study


class _Table:
    """A table of the file: each value is checked when it is taken; keys that are never taken are refused."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UnreadableStudy(f"{NAME}: {where} is {values!r}; expected a table.")
        self.values, self.where, self.taken = values, where, list[str]()

    def take(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, which must have this type; without a default the key is required."""
        self.taken.append(key)
        value = self.values.get(key, default)
        if value is None:
            raise UnreadableStudy(f"{NAME}: {self.where} has no {key!r}. Add it.")
        if type(value) is not kind or value == "" or (kind is int and value < 0):
            raise self.wrong(key, value, EXPECTED[kind])
        return value

    def take_optional(self, key: str) -> str | None:
        """The text of a key; None if it is absent."""
        self.taken.append(key)
        return self.take(key, str) if key in self.values else None

    def texts(self, key: str) -> dict[str, str]:
        """A table of texts; empty if it is absent."""
        texts = self.take(key, dict, {})
        if not all(type(text) is str and text for text in texts.values()):
            raise self.wrong(key, texts, "texts by name")
        return texts

    def groups(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of lists of two or more names; empty if it is absent."""
        groups = self.take(key, list, [])
        if not all(type(g) is list and len(set(map(str, g))) == len(g) >= 2 for g in groups):
            example = 'lists of two different methods or more, such as [["ours", "theirs"]]'
            raise self.wrong(key, groups, example)
        return tuple(tuple(map(str, group)) for group in groups)

    def tables(self, key: str) -> Iterator["_Table"]:
        """The tables of [[key]]."""
        for number, values in enumerate(self.take(key, list, []), 1):
            yield _Table(values, f"number {number} of [[{key}]]")

    def refuse_unknown_keys(self) -> None:
        """Refuse unknown keys, and suggest a known one."""
        for key in [key for key in self.values if key not in self.taken]:
            near = difflib.get_close_matches(key, self.taken, 1)
            keys = ", ".join(dict.fromkeys(self.taken))
            hint = f" Did you mean {near[0]!r}?" if near else f" The keys are: {keys}."
            raise UnreadableStudy(f"{NAME}: {self.where} has an unknown key {key!r}.{hint}")

    def wrong(self, key: str, value: Any, expected: str) -> UnreadableStudy:
        """The error for a value that is not as expected."""
        return UnreadableStudy(f"{NAME}: {key} of {self.where} is {value!r}; expected {expected}.")


def _question(table: _Table) -> Question:
    question = Question(
        name=table.take("name", str),
        text=table.take("text", str),
        answers=table.texts("answers"),
        extra_answers=table.texts("also"),
        right=table.take_optional("right"),
        compare=table.groups("compare"),
        reference=table.take("reference", bool, False),
    )
    table.refuse_unknown_keys()
    codes = [*question.answers, *question.extra_answers]
    if question.answers and len(codes) < 2 or len(set(codes)) < len(codes):
        raise UnreadableStudy(
            f"{NAME}: {table.where} has the answers {codes}; expected two or more, with different codes."
        )
    if question.extra_answers and not question.answers:
        raise UnreadableStudy(
            f"{NAME}: {table.where} has `also` but no `answers`. Add `answers`, or remove `also`: without "
            "`answers`, participants choose an image."
        )
    if question.right not in (None, *codes):
        raise table.wrong("right", question.right, f"one of {codes}")
    return question


def _case(table: _Table) -> Case:
    case = Case(
        name=table.take("name", str),
        pictures=table.texts("pictures"),
        reference=table.take_optional("reference"),
        group=table.take_optional("group") or "",
        fields=table.texts("say"),
    )
    table.refuse_unknown_keys()
    if not case.pictures:
        raise UnreadableStudy(f"{NAME}: {table.where} has no images. Add some to its `pictures`.")
    return case


def _check_study(study: Study) -> None:
    """Refuse tables that are valid by themselves but do not fit together."""
    _check_names("questions", [question.name for question in study.questions])
    _check_names("cases", [case.name for case in study.cases])
    methods = {method for case in study.cases for method in case.pictures}
    for question in study.questions:
        unknown = [m for group in question.compare for m in group if m not in methods]
        if unknown:
            raise UnreadableStudy(
                f"{NAME}: {question.name!r} compares {unknown[0]!r}, but no case has an image of it. There "
                f"are images of: {', '.join(sorted(methods))}."
            )
    answerable = {item.question.name for item in study.items()}
    for question in study.questions:
        if question.name not in answerable:
            raise UnreadableStudy(
                f"{NAME}: {question.name!r} fits no case. Add a case with images of the methods it compares."
            )
    if study.trials == 0:
        raise UnreadableStudy(f"{NAME}: trials is 0; expected the number of questions per participant.")
    _check_texts(study)


def _check_names(kind: str, names: list[str]) -> None:
    if not names or len(set(names)) < len(names):
        raise UnreadableStudy(f"{NAME} has the {kind} {names}; expected one or more, with different names.")


def _check_texts(study: Study) -> None:
    """Refuse a text with a field that its case lacks, and answers that have the same label."""
    _filled_in(study.check, {"answer": "", **study.cases[0].fields}, "check")
    for item in study.items():
        where, fields = f"{item.question.name!r} of case {item.case.name!r}", item.case.fields
        _filled_in(item.question.text, fields, where)
        answers = (*item.question.answers.values(), *item.question.extra_answers.values())
        labels = [_filled_in(text, fields, where) for text in answers]
        if len(set(labels)) < len(labels):
            raise UnreadableStudy(f"{NAME}: {where} has equal answers: {labels}. Give them different texts.")
        if item.question.reference and item.case.reference is None:
            raise UnreadableStudy(
                f"{NAME}: {where} shows a reference, but the case has none. Add `reference`."
            )


def _filled_in(template: str, fields: Mapping[str, str], where: str) -> str:
    try:
        return fill_in(template, fields)
    except KeyError as error:
        raise UnreadableStudy(
            f"{NAME}: {where} uses {{{error.args[0]}}}, which is not in the case's `say`; that has: "
            f"{', '.join(fields) or 'nothing'}."
        ) from None
