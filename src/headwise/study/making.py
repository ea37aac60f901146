"""Writing a `study.toml` for a folder of images, which you can then edit.

For the images of `headwise benchmark polysemy | editing | multi-concept` it has the questions that the paper
asked people: which sense of a word they see; which edit fits the target, and which preserves the source;
which image shows everything in its prompt. For any other folder it asks which image is better: images are
named by case and method (`003 ours.png`), or are in one folder per method (`ours/003.png`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headwise.benchmarks.results import kind_of
from headwise.errors import HeadwiseError, UnreadableStudy
from headwise.files import write_whole
from headwise.pictures import settings_in
from headwise.runs.scores import Scores
from headwise.study.description import Case, Question
from headwise.study.reading import NAME, parse_study

__all__ = ["make_study"]

CONSENT = """\
You will see computer-generated images and answer questions about them. There are no right or wrong answers:
what counts is what you see.

- It takes about {minutes} min. You can stop at any time and continue later with the same link.
- We save your answers and how long each took, and nothing that identifies you.
- Taking part is voluntary. You can withdraw at any time; your answers are then deleted.
- Questions? Contact [name and address of the person who runs this study].

By continuing you confirm that you are at least 18 years old and agree to take part."""
SECONDS_PER_QUESTION = 8  # for the duration in the consent text

SENSE = Question(
    "sense",
    "What is “{word}” in this image?",
    {"meant": "{meant}", "other": "{other}"},
    {"both": "both of them", "neither": "neither of them"},
    "meant",
)
FIT = Question("fit", "Which image fits “{target}” better?")
KEEP = Question(
    "keep",
    "From “{source}” to “{target}”: apart from that change, which image preserves the original better?",
    reference=True,
)
SHOWS = Question("shows", "Which image shows “{prompt}” better?")
BETTER = Question("better", "Which image is better?")
SENSE_LABELS = {  # concepts in everyday words
    "Animals": "an animal",
    "Brand Logos": "a brand",
    "Color": "a color",
    "Food and Beverages": "something to eat or drink",
    "Fruits and Vegetables": "a fruit or vegetable",
    "Geometric Patterns": "a pattern",
    "Plants": "a plant",
}

Rows = Mapping[str, Mapping[str, str]]  # case, method, path within the folder


@dataclass(frozen=True)
class _Plan:
    """The parts of a study that depend on the folder."""

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
    """Write `study.toml` into a folder of images.

    Args:
        folder: The folder of a benchmark, or of other images.
        ours: The method to compare with each other method. By default "adjust" or "relevance"; if the folder
            has neither, all methods are compared with each other.
        methods: The methods to ask about; all if None.
        together: Whether to show the images of all methods at once, instead of two at a time.
        senses: The file of [[senses]] from which a polysemy benchmark was generated, if not a packaged one.
        trials: The maximum number of questions per participant.

    Returns:
        The path of the file.

    Raises:
        UnreadableStudy: The folder already has a study, or has no images to ask about.
    """
    folder = Path(folder)
    if (folder / NAME).exists():
        raise UnreadableStudy(f"{folder / NAME} already exists. Edit it, or remove it first.")
    rows = _rows(folder)
    plan = _plan(folder, rows, senses)
    selected = _selected(plan, methods)
    compare = _compare(selected, ours if ours is not None else plan.ours, together, required=ours is not None)
    source = _toml(plan, selected, compare, trials)
    questions = min(trials, len(list(parse_study(source).items())))  # parsing checks the text as well
    minutes = max(1, round(questions * SECONDS_PER_QUESTION / 60))
    write_whole(folder / NAME, source.replace("{minutes}", str(minutes), 1).encode())
    return folder / NAME


def _rows(folder: Path) -> Rows:
    """The paths of the images by case and method."""
    rows: dict[str, dict[str, str]] = {}
    pictures = folder / "pictures" if (folder / "pictures").is_dir() else folder
    for path in sorted(pictures.glob("*.png")):
        case, _, method = path.stem.partition(" ")
        if method:
            rows.setdefault(case, {})[method] = path.relative_to(folder).as_posix()
    if not rows:
        kinds = (".png", ".jpg", ".jpeg", ".webp")
        for path in sorted(file for file in pictures.glob("*/*") if file.suffix.lower() in kinds):
            rows.setdefault(path.stem, {})[path.parent.name] = path.relative_to(folder).as_posix()
    if not rows:
        raise UnreadableStudy(
            f"{folder} has no images named by case and method, such as '003 ours.png' or 'ours/003.png'. "
            "Give the folder of a benchmark, or rename the images."
        )
    return rows


def _plan(folder: Path, rows: Rows, senses: str | Path | None) -> _Plan:
    if not (folder / "scores.safetensors").is_file():
        return _other_pictures(folder, rows)
    scores, kind = Scores.load(folder / "scores.safetensors"), kind_of(folder)
    if kind in ("editing", "strengthening"):
        return _editing(folder, rows, scores)
    if kind == "multi-concept":
        return _multi_subject(folder, rows, scores)
    if kind == "polysemy":
        return _polysemy(folder, rows, scores, senses)
    raise UnreadableStudy(
        f"{folder} holds a {kind or 'run'} without questions for people. Give the folder of a benchmark of "
        "polysemy, editing or multi-concept."
    )


def _polysemy(folder: Path, rows: Rows, scores: Scores, senses: str | Path | None) -> _Plan:
    from headwise.benchmarks.prompts.evaluation import polysemy_prompts  # imported here: it loads torch

    polysemy = {
        sense.case.prompt: sense
        for source in ([senses] if senses else ["emoji", "paper"])
        for sense in polysemy_prompts(source)
    }
    cases = []
    for name, pictures in rows.items():
        prompt = next(_prompt(folder, path) for method, path in pictures.items() if method != "rewording")
        if prompt not in polysemy:
            raise UnreadableStudy(
                f"{folder}: the senses of the prompt “{prompt}” are unknown. Give the file that it comes "
                "from with --senses."
            )
        sense = polysemy[prompt]
        meant, other = (SENSE_LABELS.get(concept, concept) for concept in (sense.toward, sense.away))
        fields = {"word": sense.word, "meant": meant, "other": other, "prompt": prompt}
        cases.append(Case(name, pictures, group=sense.word, fields=fields))
    return _Plan("What do you see?", [SENSE], cases, "adjust", _methods(rows, scores))


def _editing(folder: Path, rows: Rows, scores: Scores) -> _Plan:
    cases = []
    for name, pictures in rows.items():
        edits = {method: path for method, path in pictures.items() if method != "source"}
        fields = {
            "source": _prompt(folder, pictures["source"]),
            "target": _prompt(folder, next(iter(edits.values()))),
        }
        group = scores.settings["attributes"][int(name)]
        cases.append(Case(name, edits, pictures["source"], group, fields))
    return _Plan("Which edit is better?", [FIT, KEEP], cases, "relevance", _methods(rows, scores))


def _multi_subject(folder: Path, rows: Rows, scores: Scores) -> _Plan:
    cases = [
        Case(
            name,
            pictures,
            group=scores.settings["types"][int(name)],
            fields={"prompt": _prompt(folder, next(iter(pictures.values())))},
        )
        for name, pictures in rows.items()
    ]
    return _Plan("Which image shows everything?", [SHOWS], cases, "relevance", _methods(rows, scores))


def _other_pictures(folder: Path, rows: Rows) -> _Plan:
    prompts = {name: _prompt(folder, next(iter(pictures.values()))) for name, pictures in rows.items()}
    question = SHOWS if all(prompts.values()) else BETTER
    cases = [
        Case(name, rows[name], fields={"prompt": prompt} if prompt else {})
        for name, prompt in prompts.items()
    ]
    return _Plan("Which image is better?", [question], cases, "", _methods(rows))


def _methods(rows: Rows, scores: Scores | None = None) -> tuple[str, ...]:
    """The methods that have images, in the benchmark's order."""
    pictured = list(dict.fromkeys(method for pictures in rows.values() for method in pictures))
    order = [str(name) for name in scores.axes["method"]] if scores is not None else pictured
    return tuple(method for method in order if method in pictured)


def _prompt(folder: Path, path: str) -> str:
    return settings_in(folder / path).get("prompt", "")


def _selected(plan: _Plan, methods: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [method for method in methods or () if method not in plan.methods]
    if unknown:
        raise HeadwiseError(
            f"No images were found of {unknown[0]!r}; the methods are: {', '.join(plan.methods)}."
        )
    return tuple(method for method in plan.methods if methods is None or method in methods)


def _compare(
    methods: tuple[str, ...], ours: str, together: bool, required: bool
) -> tuple[tuple[str, ...], ...]:
    if ours not in methods and required:
        raise HeadwiseError(f"No images were found of {ours!r}; the methods are: {', '.join(methods)}.")
    if together:
        return (tuple(sorted(methods, key=lambda method: method != ours)),)
    return tuple((ours, method) for method in methods if method != ours) if ours in methods else ()


def _toml(plan: _Plan, methods: tuple[str, ...], compare: tuple[tuple[str, ...], ...], trials: int) -> str:
    lines = [
        "# The questions and images of a study. docs/study.md describes all settings.",
        "",
        f"title = {_quoted(plan.title)}",
        f'consent = """\n{CONSENT}\n"""',
        f"trials = {trials}  # maximum number of questions per participant",
        "checks = 2  # attention checks among them",
        "allowed_misses = 0  # participants who miss more are excluded",
    ]
    for question in plan.questions:
        if any(len(group) > 2 for group in compare):
            question = replace(question, text=question.text.replace(" better?", " best?"))
        lines += ["", "[[questions]]", *_question_lines(question, compare)]
    for case in plan.cases:
        pictures = {method: path for method, path in case.pictures.items() if method in methods}
        lines += ["", "[[cases]]", *_case_lines(case, pictures)] if pictures else []
    return "\n".join(lines) + "\n"


def _question_lines(question: Question, compare: tuple[tuple[str, ...], ...]) -> list[str]:
    lines = [f"name = {_quoted(question.name)}", f"text = {_quoted(question.text)}"]
    lines += [
        f"{key} = {_inline(texts)}"
        for key, texts in (("answers", question.answers), ("also", question.extra_answers))
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
    lines += [f"say = {_inline(case.fields)}"] if case.fields else []
    lines += [f"reference = {_quoted(case.reference)}"] if case.reference else []
    return [
        *lines,
        "[cases.pictures]",
        *(f"{_quoted(method)} = {_quoted(path)}" for method, path in pictures.items()),
    ]


def _inline(texts: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{name} = {_quoted(text)}" for name, text in texts.items()) + " }"


def _quoted(text: str) -> str:
    """A text in TOML, which quotes like JSON except for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
