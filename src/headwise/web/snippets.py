"""A request of the page as a Python program and as a command line, so that it can leave the page.

Both are printed from the calls that the page executes (calls.py). Texts are written as Python's own literals
and quoted for a shell: whatever a prompt holds, it stays a text.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headwise.benchmarks.defaults import defaults_of
from headwise.web import calls
from headwise.web.expressions import Name, call, imports_of, names_in, to_python
from headwise.web.requests import Edit, Explain, Explore, Generate, Measure, Mute, Strip, Suggest, Weaken

__all__ = ["Setting", "command_of", "python_of"]

OPTIONS = {
    "factor": "--factors",
    "maps_of": "--maps",
}  # where a command does not have the argument's own name
BUILT_IN = {"effect": "effect", "votes": "relevance"}  # the file of each in a built-in model
NOT_OPTIONS = ("out", "prompts")  # of a measurement, which are files here


@dataclass(frozen=True)
class Setting:
    """The model that a request was sent to, and its files.

    Args:
        model: The name of the model, as `headwise serve --model` has it.
        relevance: The relevance file; "effect" or "votes" for that of a built-in model; None where nothing is
            measured.
        scorer_name: The CLIP model's name; None if there is none.
        folder: The folder of the run, for requests that start one.
        ks: The numbers of heads to weaken, for requests that do.
        kind: What the relevance measures, "votes" or "effect".
        head: The head that is looked at, for requests that explore; None for all heads together.
        box: The region that is looked at, for requests that explore.
        loading: What `hw.load_pipeline` was given beside the name.
    """

    model: str
    relevance: Path | Literal["effect", "votes"] | None
    scorer_name: str | None = None
    folder: Path = Path()
    ks: Sequence[int] = ()
    head: int | None = None
    kind: str = "votes"
    box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)
    loading: Mapping[str, Any] = field(default_factory=dict)


def python_of(request: Any, setting: Setting) -> str:
    """A program that does what the request asked for."""
    program = _Program()
    _WRITERS[type(request).__name__](program, request, setting)
    return program.source(setting)


class _Program:
    """Statements, with the imports and variables that their expressions need."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.names: set[str] = set()
        self.lines: list[str] = []

    def write(self, before: str, expression: Any = None, after: str = "") -> None:
        """Add a statement: a text, or an expression between two texts."""
        source = ""
        if expression is not None:
            self.imports |= imports_of(expression)
            self.names |= names_in(expression)
            statement = before.lstrip()
            source = to_python(expression, len(before) - len(statement), len(statement) + len(after))
        self.lines.append(before + source + after)

    def source(self, setting: Setting) -> str:
        """The program, preceded by its imports and by what it loads."""
        body, self.lines = self.lines, []
        self.write("pipe = ", call("hw.load_pipeline", setting.model, **setting.loading))
        if "relevance" in self.names:
            file: Any = str(setting.relevance)
            if attribute := BUILT_IN.get(file):
                self.imports |= {"from headwise import emoji"}
                file = Name(f"emoji.MODELS[{setting.model!r}].{attribute}")
            self.write("relevance = ", call("hw.Relevance.load", file))
        if "scorer" in self.names:
            self.write("scorer = ", call("hw.CLIPScorer.load", setting.scorer_name))
        return "\n".join(["import headwise as hw", *sorted(self.imports), "", *self.lines, *body, ""])


def _explore(program: _Program, request: Explore, setting: Setting) -> None:
    program.write("seen = ", call("hw.AttentionMaps"))
    program.write("with hw.hooked(pipe, seen):")
    program.write("    (picture,) = ", calls.explore(request))
    program.write('picture.save("explored.png")')
    program.write("maps = seen.take()")
    look = "maps.together()" if setting.head is None else f"maps.of({setting.head})"
    program.write(f"print([word.text for word in maps.words], {look}.shape)  # height, width, words")
    if setting.relevance is not None:
        region = call("hw.region_relevance", Name("maps"), calls.RELEVANCE, box=setting.box)
        program.write("print(", region, "[0])  # in the region")


def _explain(program: _Program, request: Explain, setting: Setting) -> None:
    program.write("explanation = ", calls.explain(request))
    program.write("for word in explanation.words:")
    program.write("    for head, address, share in explanation.top(word):")
    program.write('        print(word, head, address, f"{share:+.2f}")')
    program.write("picture = explanation.image")
    program.write('hw.plots.explanation(explanation).savefig("explanation.png")')


def _mute(program: _Program, request: Mute, setting: Setting) -> None:
    program.write("generated = ", calls.mute(request, {"plain": False, "muted": True}))
    program.write('generated["muted"][0].save("muted.png")')


def _generate(program: _Program, request: Generate, setting: Setting) -> None:
    columns = {"plain": 0.0, "steered": 1.0}
    program.write("generated = ", calls.compare(request, columns, request.pictures, setting.kind))
    program.write('generated["steered"][0].save("steered.png")')


def _strip(program: _Program, request: Strip, setting: Setting) -> None:
    program.write("generated = ", calls.compare(request, calls.strip_columns(request), 1, setting.kind))
    rows = call("pictures.beside", Name("list(zip(*generated.values()))"), Name("list(generated)"))
    program.write("", rows, '.save("strip.png")')


def _suggest(program: _Program, request: Suggest, setting: Setting) -> None:
    program.write("print(", calls.suggest(request), ")")


def _edit(program: _Program, request: Edit, setting: Setting) -> None:
    program.write("ways = ", calls.edit_hooks(request, measured=setting.relevance is not None))
    if request.picture is not None:
        uploaded = call("pictures.read_picture", "picture.png")
        size = call("model.generate.image_size", Name("pipe"))
        program.write("picture = ", call("pictures.fitted", uploaded, size))
        program.write("inverted = ", calls.invert(request))
    program.write("for name, hook in ways.items():")
    program.write("    source, edited = ", calls.edit(request), "" if request.picture else "[0]")
    program.write('    edited.save(f"{name}.png")')
    for name, way in calls.edit_finished(request).items():
        program.write("", way, f'[0].save("{name}.png")')


def _compose(program: _Program, request: Any, setting: Setting) -> None:
    for name, way in calls.excite(request, measured=setting.relevance is not None).items():
        program.write("", way, f'[0].save("{name}.png")')


def _weaken(program: _Program, request: Weaken, setting: Setting) -> None:
    weakening = calls.weaken(request, setting.folder, setting.ks, setting.model, setting.scorer_name)
    program.write("weakening = ", weakening)
    program.write("print(weakening.area())")


def _measure(program: _Program, request: Measure, setting: Setting) -> None:
    program.write("measured = ", calls.measure(request, setting.folder))
    program.write("print(measured)")


_WRITERS: Mapping[str, Any] = {
    "Explore": _explore,
    "Explain": _explain,
    "Mute": _mute,
    "Generate": _generate,
    "Strip": _strip,
    "Suggest": _suggest,
    "Edit": _edit,
    "Compose": _compose,
    "Weaken": _weaken,
    "Measure": _measure,
}


def command_of(request: Any, setting: Setting) -> str:
    """The command line that is closest to the request."""
    name, positional, options = _command(request, setting)
    options |= {"--model": setting.model, **_loading(setting.loading)}
    if setting.relevance not in (None, "votes") and not isinstance(request, Measure | Explain | Mute):
        options["--relevance"] = setting.relevance
    words = ["headwise", name]
    for option, values in options.items():
        for value in values if isinstance(values, list) else [values]:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    if any(text.startswith("-") for text in positional):
        positional = ["--", *positional]
    return shlex.join([*words, *positional])


def _loading(loading: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a pipeline loaded so."""
    options = {f"--{name.replace('_', '-')}": value for name, value in loading.items() if name != "loras"}
    return options | {"--lora": [f"{file}:{scale:g}" for file, scale in loading.get("loras", {}).items()]}


def _command(request: Any, setting: Setting) -> tuple[str, list[str], dict[str, Any]]:
    """The name of the command, its arguments and its options; an option with a list is repeated."""
    steering = getattr(request, "steering", [])
    options: dict[str, Any] = {
        "--strengthen": [calls.spell(each) for each in steering if each.away is None],
        "--adjust": [calls.spell(each) for each in steering if each.away is not None],
    }
    match request:
        case Explore():
            return (
                "generate",
                [request.prompt],
                {"--pictures": 1, "--seed": request.seed, **_sampling(request)},
            )
        case Explain():
            return (
                "explain",
                [request.prompt],
                {"--word": request.words, **_options(calls.explain(request).kwargs)},
            )
        case Mute():  # which the command line does not have: it explains the word
            options = {"--word": request.word, "--seed": request.seed, **_sampling(request)}
            return "explain", [request.prompt], options
        case Generate():
            compared = calls.compare(request, {}, request.pictures)
            return "generate", [request.prompt], options | _options(compared.kwargs)
        case Strip():
            options["--strengths"] = ",".join(f"{strength:g}" for strength in request.strengths)
            return "generate", [request.prompt], options | _options(calls.compare(request, {}, 1).kwargs)
        case Suggest():
            options = {"--suggest": request.word, "--seed": request.seed}
            return "generate", [request.prompt], options | _sampling(request)
        case Edit():
            return "edit", [], _edit_options(request)
        case Weaken():
            call = calls.weaken(request, setting.folder, setting.ks, setting.model, setting.scorer_name)
            of_model = defaults_of(setting.model).scorer
            scorer = {} if setting.scorer_name in (None, of_model) else {"--scorer": setting.scorer_name}
            scored = {"--count": request.count, "--score": call.args[-1].args[-1], **scorer}
            return "weaken", [request.concept], {**scored, **_options(call.kwargs), "--out": setting.folder}
        case Measure():
            options = {"--by": request.by, "--concepts": request.concepts}
            options |= {"--prompts": f"{setting.folder}/prompts.txt"} if request.prompts else {}
            options |= _options(calls.measure(request, setting.folder).kwargs)
            return "measure", [], {**options, "--out": setting.folder}
    words = {"--word": list(request.words), "--concept": _pairs(request.concepts)}
    return "excite", [request.prompt], {**words, "--seeds": request.seed, **_sampling(request)}


def _edit_options(request: Edit) -> dict[str, Any]:
    options: dict[str, Any] = {"--source": request.prompt, "--target": request.target}
    options["--strengthen"] = _pairs(request.concepts)
    options |= {"--strength": request.strength} if request.concepts else {}
    if request.picture is None:
        return {**options, "--seeds": request.seed, **_sampling(request)}
    return {**options, "--image": "picture.png", "--skip": request.skip, **_sampling(request)}


def _sampling(request: Any) -> dict[str, Any]:
    return _options(calls.sampling(request))


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as the options of a command."""
    return {
        OPTIONS.get(name, "--" + name.replace("_", "-")): ",".join(map(str, value))
        if isinstance(value, list | tuple)
        else value
        for name, value in arguments.items()
        if name not in NOT_OPTIONS
    }


def _pairs(concepts: Mapping[str, str]) -> list[str]:
    return [f"{word}:{concept}" for word, concept in concepts.items()]
