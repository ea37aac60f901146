"""Prompts with atoms from files of public benchmarks, which users provide; none comes with the package.

    GenEval 2       JSON lines with prompt, vqa_list (questions and answers) and skills
    GenEval         JSON lines with prompt and include (class, count, color, position of each object)
    DSG             CSV with text, proposition_id, dependency and tuple, one row per atom
    T2I-CompBench   text with one prompt per line
    TOML            the user's own templates, see `atom_templates`

Atoms for which no texts can be made, such as an object's position, are left out, and a warning counts them by
kind. Questions are kept with their atoms. Only DSG records which atom depends on which.

References:
    | GenEval 2: Addressing Benchmark Drift in Text-to-Image Evaluation (Kamath et al., 2025)
    | https://arxiv.org/abs/2512.16853
    | GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment (Ghosh et al., 2023)
    | https://arxiv.org/abs/2310.11513
    | Davidsonian Scene Graph (Cho et al., 2023)
    | https://arxiv.org/abs/2310.18235
    | T2I-CompBench: A Comprehensive Benchmark for Open-world Compositional Generation (Huang et al., 2023)
    | https://arxiv.org/abs/2307.06350
"""

import csv
import io
import json
import re
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from headwise.benchmarks.prompts.atom_templates import templated_prompts
from headwise.benchmarks.prompts.atom_texts import Draft, DraftPrompt, atom_prompts
from headwise.benchmarks.prompts.atoms import AtomPrompt
from headwise.benchmarks.prompts.evaluation import read_toml
from headwise.benchmarks.prompts.nouns import COLORS, NUMBERS, plural, same_word, singular
from headwise.errors import UnreadablePrompts

__all__ = ["read_prompts"]

EXPECTED = (
    "GenEval 2 or GenEval (JSON lines), DSG (CSV), T2I-CompBench (text, one prompt per line), or a TOML "
    "file of templates as in the guide"
)
DSG_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
_PLACES = "on|in|at|of|to|by|near|next|behind|beside|under|over|above|below|with|from|inside|into|through"
_RELATION = re.compile(rf"\b(?:{_PLACES})\b(?: (?:the \w+ )?(?:{_PLACES})\b)*")  # "next to", "on the left of"


def read_prompts(source: str | Path) -> list[AtomPrompt]:
    """The prompts of a file, with their atoms; the format is recognised by the content.

    Args:
        source: "emoji", or the path of a file in one of the formats above.

    Raises:
        UnreadablePrompts: The file cannot be read, is in another format, or has a bad line.
    """
    path = Path(source)
    if str(source) == "emoji" or path.suffix == ".toml":
        return templated_prompts(source, read_toml(source, "atoms"))
    text = _text(path)
    if tables := _as_toml(text):
        return templated_prompts(source, tables)
    try:
        read = _reader_of(path, text)
        drafts = list(read(text, path.stem))
    except _BadLine as error:
        raise UnreadablePrompts(f"{path}: {error}. Correct that line, or leave it out.") from None
    prompts, left_out = atom_prompts(drafts)
    if not prompts:
        raise UnreadablePrompts(
            f"{path}: texts could be made for none of its {len(drafts)} prompts. Expected {EXPECTED}."
        )
    if left_out:
        warnings.warn(f"{path}: {_describe(left_out)}", stacklevel=2)
    return prompts


def _describe(left_out: Counter[str]) -> str:
    """What is left out, with the most frequent kinds."""
    prompts = left_out.pop("prompts", 0)
    kinds = [f"{n} {kind}" for kind, n in left_out.most_common(5)]
    rest = left_out.total() - sum(n for _, n in left_out.most_common(5))
    listed = ", ".join([*kinds, *([f"{rest} others"] if rest else [])]) or "0"
    without = f", and {prompts} prompts without other atoms" if prompts else ""
    return f"atoms are left out, because no texts can be made for them ({listed}){without}."


class _BadLine(ValueError):
    """A line that breaks its format."""

    def __init__(self, number: int, fault: str) -> None:
        super().__init__(f"line {number} {fault}")


Reader = Callable[[str, str], Iterator[DraftPrompt]]
"""From the text of a file and the file's name to its prompts."""


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UnreadablePrompts(f"{path} cannot be read: {reason}. Expected {EXPECTED}.") from None
    if not text.strip() or "\0" in text:
        what = "holds NUL characters" if text.strip() else "is empty"
        raise UnreadablePrompts(f"{path} {what}. Expected {EXPECTED}.")
    return text


def _as_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _reader_of(path: Path, text: str) -> Reader:
    first = text.lstrip().partition("\n")[0].strip()
    columns = [column.strip(' "') for column in first.split(",")]
    if set(DSG_COLUMNS) <= set(columns):
        return _dsg
    if path.suffix == ".csv":
        missing = next(column for column in DSG_COLUMNS if column not in columns)
        raise UnreadablePrompts(f"{path}: a CSV without the column {missing}. Expected {EXPECTED}.")
    if first[0] not in "{[":
        return _lines
    if '"original_prompt"' in text and '"editing_prompt"' in text:
        raise UnreadablePrompts(
            f"{path} holds edit pairs, as in PIE-Bench. Read it with `pie_pairs`. For prompts to generate, "
            f"expected {EXPECTED}."
        )
    for key, read in (("vqa_list", _geneval2), ("include", _geneval)):
        if key in _record(1, text.lstrip().partition("\n")[0]):
            return read
    raise UnreadablePrompts(
        f"{path}: its first line has neither vqa_list (GenEval 2) nor include (GenEval). Expected {EXPECTED}."
    )


def _record(number: int, line: str) -> dict[str, Any]:
    """The JSON object of a line, with its prompt."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise _BadLine(number, f"is not JSON ({error})") from None
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("prompt"), str)
        or not record["prompt"].strip()
    ):
        raise _BadLine(number, "is not a JSON object with a prompt")
    return record


def _records(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _record(number, line)


def _geneval2(text: str, name: str) -> Iterator[DraftPrompt]:
    """GenEval 2: "How many pigs are in the image?", "one"; grouped by the number of atoms."""
    for number, record in _records(text):
        try:
            skills, questions = record["skills"], [(str(q), str(a)) for q, a in record["vqa_list"]]
            atoms = int(record.get("atom_count", len(questions)))
            kinds = [str(skill) for skill in skills]
        except (KeyError, TypeError, ValueError) as error:
            raise _BadLine(number, f"lacks or misspells vqa_list, skills or atom_count ({error})") from None
        if len(kinds) != len(questions):
            raise _BadLine(number, f"has {len(kinds)} skills for {len(questions)} questions")
        numbers = dict(filter(None, (_noun_and_count(question, answer) for question, answer in questions)))
        rows = zip(kinds, questions, strict=True)
        drafts = tuple(
            _draft_of(kind, question, answer, numbers)._replace(question=question, answer=answer)
            for kind, (question, answer) in rows
        )
        yield DraftPrompt(record["prompt"], drafts, f"{atoms} atoms")


def _noun_and_count(question: str, answer: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"How many (.+) are in the image\?", question)
    return (singular(match[1]), answer.casefold()) if match and answer.casefold() in NUMBERS else None


def _draft_of(kind: str, question: str, answer: str, numbers: dict[str, str]) -> Draft:
    """The atom of a GenEval 2 question; without a value if the question has another form."""
    if count := _noun_and_count(question, answer):
        return Draft("count", count[1], count[0])
    thing = re.fullmatch(r"Are there any (.+) in the image\?", question)
    if thing and answer == "Yes":
        noun = singular(thing[1])
        return Draft("thing", noun, many=numbers.get(noun, "two") != "one")
    attribute = re.fullmatch(r"(Is|Are) the (.+) (\S+)\?", question)
    if attribute and answer == "Yes" and kind == "attribute":
        many = attribute[1] == "Are"
        noun = singular(attribute[2]) if many else attribute[2]
        return Draft(_kind_of(attribute[3], kind), attribute[3], noun, many)
    return Draft(kind)


def _kind_of(adjective: str, otherwise: str) -> str:
    return "color" if any(same_word(adjective, color) for color in COLORS) else otherwise


def _geneval(text: str, name: str) -> Iterator[DraftPrompt]:
    """GenEval: the objects to detect; grouped by tag."""
    for number, record in _records(text):
        drafts: list[Draft] = []
        try:
            for thing in record["include"]:
                noun, count = str(thing["class"]), int(thing.get("count", 1))
                drafts.append(Draft("thing", noun, many=count > 1))
                if 1 < count <= len(NUMBERS):
                    drafts.append(Draft("count", NUMBERS[count - 1], noun))
                if "color" in thing:
                    drafts.append(Draft("color", str(thing["color"]), noun, count > 1))
                drafts += [Draft("position")] * ("position" in thing)
        except (KeyError, TypeError, ValueError) as error:
            raise _BadLine(number, f"lacks or misspells include, class or count ({error})") from None
        yield DraftPrompt(record["prompt"], tuple(drafts), str(record.get("tag", name)))


def _lines(text: str, name: str) -> Iterator[DraftPrompt]:
    """T2I-CompBench: "a red book and a blue cake", "three clocks ticked on the wall"."""
    for line in filter(None, map(str.strip, text.splitlines())):
        drafts: list[Draft] = []
        for part in re.split(r",? and |, ", line.rstrip(".")):
            head, *related = _RELATION.split(part)
            drafts += _of_phrase(head) or [Draft("phrase")]
            for phrase in related:
                drafts += [Draft("relation"), *_of_phrase(phrase)]
        yield DraftPrompt(line, tuple(drafts), name)


def _of_phrase(part: str) -> list[Draft]:
    """The atoms of a noun phrase; of a longer part, only those of a number and the noun after it."""
    if not part.split():
        return []
    first, *words = part.split()
    number = first.casefold()
    if number not in ("a", "an", *NUMBERS) or not words:
        return []
    many = number in NUMBERS[1:]
    adjectives = words[:1] if len(words) > 1 and _kind_of(words[0], "") else []
    nouns = words[len(adjectives) :]
    if len(nouns) > 2 or many and plural(singular(" ".join(nouns))) != " ".join(nouns):
        if not many or plural(singular(nouns[0])) != nouns[0]:
            return []
        nouns = nouns[:1]
    noun = singular(" ".join(nouns)) if many else " ".join(nouns)
    if _kind_of(noun, "") == "color":  # of "a black and white cat"
        return []
    drafts = [Draft("thing", noun, many=many)]
    if number in NUMBERS:
        drafts.append(Draft("count", number, noun))
    return [*drafts, *(Draft("color", color, noun, many) for color in adjectives)]


def _dsg(text: str, name: str) -> Iterator[DraftPrompt]:
    """DSG: "attribute - color (rose, white)"; grouped by the origin of its prompts."""
    rows = csv.DictReader(io.StringIO(text))
    items: dict[str, tuple[str, dict[str, tuple[Draft, list[str]]]]] = {}
    try:
        for row in rows:
            missing = [column for column in DSG_COLUMNS if not (row.get(column) or "").strip()]
            if missing:
                raise _BadLine(rows.line_num, f"lacks {missing[0]}")
            _, atoms = items.setdefault(row["item_id"], (row["text"], {}))
            parents, question = re.findall(r"\d+", row["dependency"]), row["question_natural_language"]
            draft = _proposition(row["tuple"], question, rows.line_num)
            atoms[row["proposition_id"]] = (draft._replace(question=question, answer="Yes"), parents)
    except csv.Error as error:
        raise _BadLine(rows.line_num, f"is not CSV ({error})") from None
    for item, (prompt, atoms) in items.items():
        index = {proposition: i for i, proposition in enumerate(atoms)}
        drafts = tuple(
            draft._replace(parents=tuple(index[parent] for parent in parents if parent in index))
            for draft, parents in atoms.values()
        )
        yield DraftPrompt(prompt, drafts, re.sub(r"[_-]?\d+$", "", item) or name)


def _proposition(written: str, question: str, number: int) -> Draft:
    """The atom of a tuple; without a value if it is about several objects or not about a single word."""
    parts = re.fullmatch(r"\s*(.+?) - (.*?)\s*\((.*)\)\s*", written, re.DOTALL)
    if parts is None:
        raise _BadLine(
            number, f'has the tuple "{written}"; expected one such as "attribute - color (car, red)"'
        )
    broad, inside = parts[1], parts[3]
    kind = "thing" if broad == "entity" else broad if parts[2] in ("", "-") else parts[2]
    noun, *values = (part.strip() for part in inside.split(","))
    many = question.startswith("Are ")
    noun = singular(noun) if many else noun
    if "'s " in noun or len(noun.split()) > 2:
        return Draft(kind)
    if kind == "thing" and not values:
        return Draft("thing", noun, many=many)
    count = re.fullmatch(r"==\s*(\d+)", values[0]) if kind == "count" and len(values) == 1 else None
    if count and 1 <= int(count[1]) <= len(NUMBERS):
        return Draft("count", NUMBERS[int(count[1]) - 1], noun)
    if broad == "attribute" and len(values) == 1 and len(values[0].split()) == 1 and kind != "state":
        return Draft(kind, values[0], noun, many)
    return Draft(kind)
