"""`study.toml` for a folder of pictures, written so that it can be read and changed.

From the pictures of `headwise benchmark polysemy | editing | multi-concept` it asks what the paper asked
people: which sense of a word they see; which edit fits the target, and which keeps the source; which picture
shows all that was asked for. From any other folder, it asks which picture is better: pictures are named by
their case and method (`003 ours.png`), or lie in one folder for each method (`ours/003.png`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headwise.errors import HeadwiseError, UnreadableStudy
from headwise.files import write_whole
from headwise.pictures import settings_in
from headwise.runs.scores import Scores
from headwise.study.description import Case, Question
from headwise.study.reading import NAME, parse_study

__all__ = ["make_study"]

CONSENT = """\
You will see pictures that computers have drawn, and answer questions about them. There are no right or wrong
answers: what counts is what you see.

- It takes about {minutes} min. You can stop at any time and go on later with the same link.
- Saved are your answers and how long each took; nothing that says who you are.
- Taking part is voluntary. You can withdraw at any time, and your answers are then deleted.
- Questions? Ask [name and address of who runs this study].

By going on you say that you are at least 18 years old and agree to take part."""
SECONDS = 8  # that a question takes, for the promise above

SENSE = Question(
    "sense",
    "What is “{word}” in this picture?",
    {"meant": "{meant}", "other": "{other}"},
    {"both": "both of them", "neither": "neither of them"},
    "meant",
)
FIT = Question("fit", "Which picture fits “{target}” better?")
KEEP = Question(
    "keep",
    "From “{source}” to “{target}”: apart from that change, which picture keeps the original better?",
    reference=True,
)
SHOWS = Question("shows", "Which picture shows “{prompt}” better?")
BETTER = Question("better", "Which picture is better?")
SAID = {  # of a word's sense, to people who do not know the concepts
    "Animals": "an animal",
    "Brand Logos": "a brand",
    "Color": "a color",
    "Food and Beverages": "something to eat or drink",
    "Fruits and Vegetables": "a fruit or vegetable",
    "Geometric Patterns": "a pattern",
    "Plants": "a plant",
}

Rows = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class _Plan:
    """What is to be written."""

    title: str
    questions: Sequence[Question]
    cases: Sequence[Case]
    ours: str = ""
    methods: Sequence[str] = field(default_factory=tuple)


def make_study(
    folder: str | Path,
    *,
    ours: str | None = None,
    methods: Sequence[str] | None = None,
    together: bool = False,
    senses: str | Path | None = None,
    trials: int = 40,
) -> Path:
    """Write `study.toml` into a folder of pictures.

    Args:
        folder: Of a benchmark, or of other pictures.
        ours: The method that is compared with each other one; "adjust" or "relevance", if it is there, else
            all are compared with all.
        methods: Only these.
        together: Show the pictures of all methods at once, and one of them is chosen, instead of two by two.
        senses: The file of [[senses]] that a benchmark of polysemy was drawn from; found, if Headwise's own.
        trials: Questions asked of a participant.

    Raises:
        UnreadableStudy: There is a study already, or there are no pictures to ask about.
    """
    folder = Path(folder)
    if (folder / NAME).exists():
        raise UnreadableStudy(f"{folder / NAME} is there already. Change it, or remove it first.")
    rows = _rows(folder)
    plan = _plan(folder, rows, senses)
    chosen = _chosen(plan, methods)
    compare = _compare(chosen, ours if ours is not None else plan.ours, together, given=ours is not None)
    source = _written(plan, chosen, compare, trials)
    asked = min(trials, len(list(parse_study(source).items())))  # what cannot be read is not written, too
    minutes = max(1, round(asked * SECONDS / 60))
    write_whole(folder / NAME, source.replace("{minutes}", str(minutes), 1).encode())
    return folder / NAME


def _rows(folder: Path) -> Rows:
    """The pictures by case and method; paths within the folder."""
    rows: dict[str, dict[str, str]] = {}
    home = folder / "pictures" if (folder / "pictures").is_dir() else folder
    for path in sorted(home.glob("*.png")):
        case, _, method = path.stem.partition(" ")
        if method:
            rows.setdefault(case, {})[method] = path.relative_to(folder).as_posix()
    if not rows:
        kinds = (".png", ".jpg", ".jpeg", ".webp")
        for path in sorted(file for file in home.glob("*/*") if file.suffix.lower() in kinds):
            rows.setdefault(path.stem, {})[path.parent.name] = path.relative_to(folder).as_posix()
    if not rows:
        raise UnreadableStudy(
            f"{folder} holds no pictures that are named by case and method, such as '003 ours.png' or "
            "'ours/003.png'. Give the folder of a benchmark, or name them so."
        )
    return rows


def _plan(folder: Path, rows: Rows, senses: str | Path | None) -> _Plan:
    if not (folder / "scores.safetensors").is_file():
        return _any(folder, rows)
    scores = Scores.load(folder / "scores.safetensors")
    if "pair" in scores.axes:
        return _editing(folder, rows, scores)
    if "measure" in scores.axes:
        return _several(folder, rows, scores)
    if "method" in scores.axes:
        return _polysemy(folder, rows, scores, senses)
    raise UnreadableStudy(
        f"{folder} holds a run of weakening, which asks nothing of people. Give the folder of a benchmark of "
        "polysemy, editing or multi-concept."
    )


def _polysemy(folder: Path, rows: Rows, scores: Scores, senses: str | Path | None) -> _Plan:
    from headwise.benchmarks.prompts import polysemy_prompts  # torch comes with it

    known = {
        sense.case.prompt: sense
        for source in ([senses] if senses else ["emoji", "paper"])
        for sense in polysemy_prompts(source)
    }
    cases = []
    for name, pictures in rows.items():
        prompt = next(_prompt(folder, path) for method, path in pictures.items() if method != "rewording")
        if prompt not in known:
            raise UnreadableStudy(
                f"{folder}: which senses the prompt “{prompt}” has is not known. Give the file that it comes "
                "from, with --senses."
            )
        sense = known[prompt]
        meant, other = (SAID.get(concept, concept) for concept in (sense.toward, sense.away))
        say = {"word": sense.word, "meant": meant, "other": other, "prompt": prompt}
        cases.append(Case(name, pictures, group=sense.word, say=say))
    return _Plan("What do you see?", [SENSE], cases, "adjust", _methods(rows, scores))


def _editing(folder: Path, rows: Rows, scores: Scores) -> _Plan:
    cases = []
    for name, pictures in rows.items():
        edits = {method: path for method, path in pictures.items() if method != "source"}
        say = {
            "source": _prompt(folder, pictures["source"]),
            "target": _prompt(folder, next(iter(edits.values()))),
        }
        group = scores.settings["attributes"][int(name)]
        cases.append(Case(name, edits, pictures["source"], group, say))
    return _Plan("Which edit is better?", [FIT, KEEP], cases, "relevance", _methods(rows, scores))


def _several(folder: Path, rows: Rows, scores: Scores) -> _Plan:
    cases = [
        Case(
            name,
            pictures,
            group=scores.settings["types"][int(name)],
            say={"prompt": _prompt(folder, next(iter(pictures.values())))},
        )
        for name, pictures in rows.items()
    ]
    return _Plan("Which picture shows it all?", [SHOWS], cases, "relevance", _methods(rows, scores))


def _any(folder: Path, rows: Rows) -> _Plan:
    said = {name: _prompt(folder, next(iter(pictures.values()))) for name, pictures in rows.items()}
    question = SHOWS if all(said.values()) else BETTER
    cases = [Case(name, rows[name], say={"prompt": text} if text else {}) for name, text in said.items()]
    return _Plan("Which picture is better?", [question], cases, "", _methods(rows))


def _methods(rows: Rows, scores: Scores | None = None) -> tuple[str, ...]:
    """Those with pictures, in the benchmark's order."""
    there = list(dict.fromkeys(method for pictures in rows.values() for method in pictures))
    named = [str(name) for name in scores.axes["method"]] if scores is not None else there
    return tuple(method for method in named if method in there)


def _prompt(folder: Path, path: str) -> str:
    return settings_in(folder / path).get("prompt", "")


def _chosen(plan: _Plan, methods: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [method for method in methods or () if method not in plan.methods]
    if unknown:
        raise HeadwiseError(
            f"There are no pictures of {unknown[0]!r}; the methods are: {', '.join(plan.methods)}."
        )
    return tuple(method for method in plan.methods if methods is None or method in methods)


def _compare(methods: tuple[str, ...], ours: str, together: bool, given: bool) -> tuple[tuple[str, ...], ...]:
    if ours not in methods and given:
        raise HeadwiseError(f"There are no pictures of {ours!r}; the methods are: {', '.join(methods)}.")
    if together:
        return (tuple(sorted(methods, key=lambda method: method != ours)),)
    return tuple((ours, method) for method in methods if method != ours) if ours in methods else ()


def _written(plan: _Plan, methods: tuple[str, ...], compare: tuple[tuple[str, ...], ...], trials: int) -> str:
    parts = [
        "# What is asked, of which pictures. docs/study.md says what can stand here.",
        "",
        f"title = {_quoted(plan.title)}",
        f'consent = """\n{CONSENT}\n"""',
        f"trials = {trials}  # questions a participant, at most",
        "checks = 2  # attention checks among them",
        "allowed_misses = 0  # who misses more is left out",
    ]
    several = any(len(group) > 2 for group in compare)
    for question in plan.questions:
        asked = replace(question, text=question.text.replace(" better?", " best?")) if several else question
        parts += ["", "[[questions]]", *_question_lines(asked, compare)]
    for case in plan.cases:
        pictures = {method: path for method, path in case.pictures.items() if method in methods}
        parts += ["", "[[cases]]", *_case_lines(case, pictures)] if pictures else []
    return "\n".join(parts) + "\n"


def _question_lines(question: Question, compare: tuple[tuple[str, ...], ...]) -> list[str]:
    lines = [f"name = {_quoted(question.name)}", f"text = {_quoted(question.text)}"]
    lines += [
        f"{key} = {_inline(texts)}"
        for key, texts in (("answers", question.answers), ("also", question.also))
        if texts
    ]
    lines += [f"right = {_quoted(question.right)}"] if question.right else []
    lines += ["reference = true"] if question.reference else []
    if compare:
        groups = ",\n".join(f"  [{', '.join(map(_quoted, group))}]" for group in compare)
        lines.append(f"compare = [\n{groups},\n]")
    return lines


def _case_lines(case: Case, pictures: Mapping[str, str]) -> list[str]:
    lines = [f"name = {_quoted(case.name)}"]
    lines += [f"group = {_quoted(case.group)}"] if case.group else []
    lines += [f"say = {_inline(case.say)}"] if case.say else []
    lines += [f"reference = {_quoted(case.reference)}"] if case.reference else []
    return [
        *lines,
        "[cases.pictures]",
        *(f"{_quoted(method)} = {_quoted(path)}" for method, path in pictures.items()),
    ]


def _inline(texts: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{name} = {_quoted(text)}" for name, text in texts.items()) + " }"


def _quoted(text: str) -> str:
    """A text as TOML writes it: as JSON does, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
