"""What was asked on the page, said again as Python and as a command line, so that it can leave the page.

Texts are written as Python's own literals and quoted for a shell: whatever a prompt holds, it stays a text.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from headwise.errors import HeadwiseError
from headwise.web.picture_jobs import SDEDIT, options_of, parts_of, spell
from headwise.web.requests import (
    Compose,
    Drawing,
    Edit,
    Explore,
    Generate,
    Measure,
    Steering,
    Strip,
    Suggest,
    Weaken,
)
from headwise.web.run_jobs import BATCH, SHOWN

__all__ = ["Setting", "command_of", "python_of"]


class Setting:
    """Where something was asked: the model, the relevance file, the judge.

    Args:
        model: As `headwise serve --model` has it.
        relevance: The file, "emoji" for the built-in model's own; None where nothing is measured.
        judge: CLIP by name.
        folder: Of the run, where there is one.
        ks: How many heads are weakened, where some are.
    """

    def __init__(
        self,
        model: str,
        relevance: Path | Literal["emoji"] | None,
        judge: str | None = None,
        folder: Path | None = None,
        ks: Sequence[int] = (),
    ) -> None:
        self.model, self.relevance, self.judge, self.folder, self.ks = model, relevance, judge, folder, ks


def python_of(ask: Any, setting: Setting) -> str:
    """A program that does the same."""
    kind = type(ask).__name__.lower()
    if kind not in _PYTHON:
        raise HeadwiseError(f"There is no recipe for {kind}.")
    imports, body = _PYTHON[kind](ask, setting)
    lines = [f"pipe = hw.load_pipeline({setting.model!r})"]
    if setting.relevance is not None and "relevance" in body and kind != "measure":
        built_in = setting.relevance == "emoji"
        imports = [*imports, *(["from headwise import emoji"] if built_in else [])]
        file = "emoji.RELEVANCE" if built_in else repr(str(setting.relevance))
        lines.append(f"relevance = hw.Relevance.load({file})")
    lines = ["import headwise as hw", *sorted(imports), "", *lines]
    return "\n".join([*lines, body.strip(), ""])


def command_of(ask: Any, setting: Setting) -> str:
    """The nearest command line."""
    kind = type(ask).__name__.lower()
    if kind not in _COMMANDS:
        raise HeadwiseError(f"There is no command for {kind}.")
    name, positional, options = _COMMANDS[kind](ask, setting)
    words = ["headwise", name]
    for option, value in [*options, ("--model", setting.model), *_relevance(kind, setting)]:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    if any(text.startswith("-") for text in positional):
        positional = ["--", *positional]
    return shlex.join([*words, *positional])


def _relevance(kind: str, setting: Setting) -> list[tuple[str, Any]]:
    if setting.relevance in (None, "emoji") or kind == "measure":
        return []
    return [("--relevance", setting.relevance)]


def _call(name: str, *arguments: Any, **options: Any) -> str:
    """A call, an argument a line; strings that begin with a space are code and not texts."""
    lines = [_said(argument) for argument in arguments]
    lines += [f"{key}={_said(value)}" for key, value in options.items()]
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + ")"


class _Code(str):
    """Python, to be written as it is."""


def _said(value: Any) -> str:
    return str(value) if isinstance(value, _Code) else repr(value)


def _hook(steering: Steering, strength: str) -> str:
    words = [repr(steering.word), repr(steering.concept)]
    words += [] if steering.away is None else [repr(steering.away)]
    more = "" if steering.occurrence is None else f", occurrence={steering.occurrence}"
    name = "strengthen" if steering.away is None else "adjust"
    return f"hw.{name}(relevance, {', '.join(words)}, {strength}{more})"


Parts = tuple[list[str], str]


def _explore(ask: Explore, setting: Setting) -> Parts:
    drawn = _call(
        "    picture = pipe",
        ask.prompt,
        generator=_Code(f"hw.generator_for({ask.seed}, 0)"),
        **options_of(ask),
    )
    body = f"""
seen = hw.AttentionMaps()
with hw.hooked(pipe, seen):
{drawn.replace(chr(10), chr(10) + "    ")}.images[0]
picture.save("picture.png")
maps = seen.take()
print([word.text for word in maps.words], maps.of(0).shape)  # of head 0: height, width, words
"""
    if setting.relevance is None:
        return [], body
    body += "print(region_relevance(maps, relevance, box=(0.25, 0.25, 0.75, 0.75))[0])  # in the middle\n"
    return ["from headwise.measuring.attention_maps import region_relevance"], body


def _generate(ask: Generate, setting: Setting) -> Parts:
    hooks = ", ".join(_hook(one, repr(one.strength)) for one in ask.steering)
    columns = f'columns = {{"plain": [], "steered": [{hooks}]}}\n'
    drawn = _call(
        "drawn = hw.compare", _Code("pipe"), ask.prompt, _Code("columns"), **_drawing(ask, ask.pictures)
    )
    return [], f'{columns}{drawn}\ndrawn["steered"][0].save("steered.png")'


def _strip(ask: Strip, setting: Setting) -> Parts:
    hooks = ", ".join(_hook(one, f"{one.strength!r} * s") for one in ask.steering)
    columns = f'columns = {{f"× {{s:g}}": [{hooks}] for s in {ask.strengths!r}}}\n'
    drawn = _call("drawn = hw.compare", _Code("pipe"), ask.prompt, _Code("columns"), **_drawing(ask, 1))
    grid = 'beside(list(zip(*drawn.values())), list(drawn)).save("strip.png")'
    return ["from headwise.pictures import beside"], f"{columns}{drawn}\n{grid}"


def _drawing(ask: Drawing, pictures: int) -> dict[str, Any]:
    return {"seed": ask.seed, "pictures": pictures, "batch_size": 1, **options_of(ask)}


def _suggest(ask: Suggest, setting: Setting) -> Parts:
    options = {"pictures": 4, "batch_size": 4, "seed": ask.seed, **options_of(ask)}
    options["num_inference_steps"] = min(8, ask.num_inference_steps)
    return [], "print(" + _call(
        "hw.suggest", _Code("pipe"), _Code("relevance"), ask.prompt, ask.word, **options
    ) + ")"


def _edit(ask: Edit, setting: Setting) -> Parts:
    rivals = {"plug-and-play": "PlugAndPlay", "masactrl": "MasaCtrl", "free-prompt": "FreePrompt"}
    ways = {"relevance": _p2p(ask)} if ask.concepts else {}
    if "prompt-to-prompt" in ask.rivals or not (ways or set(ask.rivals) & set(rivals)):
        ways["prompt-to-prompt"] = "hw.PromptToPrompt()"
    ways |= {name: f"{kind}()" for name, kind in rivals.items() if name in ask.rivals}
    names = [rivals[name] for name in ways if name in rivals]
    rooms = {"PlugAndPlay": "plug_and_play", "MasaCtrl": "masactrl", "FreePrompt": "free_prompt"}
    body = ["ways = {", *(f"    {name!r}: {made}," for name, made in ways.items()), "}"]
    imports = [f"from headwise.editing.baselines.{rooms[name]} import {name}" for name in names]
    options = options_of(ask)
    if ask.picture is not None:
        imports.append("from headwise.pictures import fitted, read_picture")
        side = "pipe.vae_scale_factor * pipe.unet.config.sample_size"
        body.append(f'picture = fitted(read_picture("picture.png"), ({side},) * 2)')
        given = {"num_inference_steps": ask.num_inference_steps}
        body.append(_call("found = hw.invert", _Code("pipe"), _Code("picture"), ask.prompt, **given))
        more = {"guidance_scale": ask.guidance_scale, "skip": ask.skip}
        draw = _call(
            "    source, edited = hw.edit_picture",
            _Code("pipe"),
            _Code("found"),
            [ask.target],
            _Code("[hook]"),
            **more,
        )
    else:
        draw = _call(
            "    source, edited = hw.edit",
            _Code("pipe"),
            ask.prompt,
            [ask.target],
            _Code("hook"),
            seeds=[ask.seed],
            **options,
        )
    body += ["for name, hook in ways.items():", draw.replace("\n", "\n    ") + ("" if ask.picture else "[0]")]
    body.append('    edited.save(f"{name}.png")')
    if "sdedit" in ask.rivals:
        imports.append("from headwise.editing.baselines.sdedit import sdedit")
        given_picture = _Code("[picture]" if ask.picture else "[source]")
        body.append(
            _call(
                "sdedit",
                _Code("pipe"),
                given_picture,
                [ask.target],
                strength=SDEDIT,
                seeds=[ask.seed],
                **options,
            )
            + '[0].save("sdedit.png")'
        )
    return imports, "\n".join(body)


def _p2p(ask: Edit) -> str:
    return f"hw.PromptToPrompt(relevance=relevance, concepts={ask.concepts!r}, strength={ask.strength!r})"


def _compose(ask: Compose, setting: Setting) -> Parts:
    ways = {"plain": f"hw.Excite([{ask.words!r}], thresholds={{0.0: 0.0}})"}
    if ask.concepts:
        ways["relevance"] = f"hw.Excite([{ask.words!r}], relevance=relevance, concepts={ask.concepts!r})"
    ways["attend-and-excite"] = f"hw.Excite([{ask.words!r}])"
    options = {"seeds": [ask.seed], **options_of(ask)}
    draw = _call("    (picture,) = hw.excite", _Code("pipe"), [ask.prompt], _Code("exciting"), **options)
    parts = ask.parts or parts_of(ask.prompt, ask.words)
    body = ["ways = {", *(f"    {name!r}: {made}," for name, made in ways.items()), "}"]
    body += [
        "for name, exciting in ways.items():",
        draw.replace("\n", "\n    "),
        '    picture.save(f"{name}.png")',
    ]
    body.append(_call("compose", _Code("pipe"), list(parts), **options) + '[0].save("composable.png")')
    return ["from headwise.editing.baselines.composable import compose"], "\n".join(body)


def _weaken(ask: Weaken, setting: Setting) -> Parts:
    source = "emoji" if setting.model == "emoji" else "paper"
    score = "choice" if setting.judge == "emoji" else "similarity"
    options = {
        "ks": tuple(setting.ks), "random_orders": 1, "factor": ask.factor, "seeds": (ask.seed,),
        "out": str(setting.folder), "batch_size": BATCH, "keep_prompts": SHOWN, **options_of(ask),
    }  # fmt: skip
    cases = _Code(f"eval_prompts({source!r}, {ask.concept!r}, {ask.count})")
    judge = _Code(f"scoring(CLIPScorer.load({setting.judge!r}), {score!r})")
    arguments = [_Code("pipe"), _Code("relevance"), ask.concept, cases, judge]
    imports = [
        "from headwise.benchmarks.prompts import eval_prompts",
        "from headwise.benchmarks.clip_scorer import CLIPScorer, scoring",
        "from headwise.benchmarks.weakening import measure_weakening",
    ]
    return imports, _call("found = measure_weakening", *arguments, **options) + "\nprint(found.area())"


def _measure(ask: Measure, setting: Setting) -> Parts:
    options: dict[str, Any] = {"pictures": ask.pictures, "seed": ask.seed, "out": str(setting.folder)}
    options |= {"prompts": ask.prompts} if ask.prompts else {}
    options |= {"until": ask.until} if ask.until is not None else {}
    options |= {"batch_size": ask.batch_size, "keep_pictures": ask.keep_pictures, **options_of(ask)}
    concepts = _Code(f"hw.ConceptSet.load({ask.concepts!r})")
    return [], _call("measured = hw.measure", _Code("pipe"), concepts, **options) + "\nprint(measured)"


_PYTHON: dict[str, Callable[[Any, Setting], Parts]] = {
    "explore": _explore,
    "generate": _generate,
    "strip": _strip,
    "suggest": _suggest,
    "edit": _edit,
    "compose": _compose,
    "weaken": _weaken,
    "measure": _measure,
}

Command = tuple[str, list[str], Iterable[tuple[str, Any]]]


def _steps(ask: Any) -> list[tuple[str, Any]]:
    return [
        ("--num-inference-steps", ask.num_inference_steps),
        ("--guidance-scale", float(ask.guidance_scale)),
    ]


def _seeded(ask: Any) -> list[tuple[str, Any]]:
    return [("--seed", ask.seed), *_steps(ask)]


def _command_explore(ask: Explore, setting: Setting) -> Command:
    return "generate", [ask.prompt], [("--pictures", 1), *_seeded(ask)]


def _command_generate(ask: Generate, setting: Setting) -> Command:
    return "generate", [ask.prompt], [*_steerings(ask.steering), ("--pictures", ask.pictures), *_seeded(ask)]


def _command_strip(ask: Strip, setting: Setting) -> Command:
    strengths = ",".join(f"{strength:g}" for strength in ask.strengths)
    return (
        "generate",
        [ask.prompt],
        [*_steerings(ask.steering), ("--strengths", strengths), ("--pictures", 1), *_seeded(ask)],
    )


def _steerings(steering: Sequence[Steering]) -> list[tuple[str, Any]]:
    return [("--strengthen" if one.away is None else "--adjust", spell(one)) for one in steering]


def _command_suggest(ask: Suggest, setting: Setting) -> Command:
    return "generate", [ask.prompt], [("--suggest", ask.word), *_seeded(ask)]


def _command_edit(ask: Edit, setting: Setting) -> Command:
    options: list[tuple[str, Any]] = [("--source", ask.prompt), ("--target", ask.target)]
    options += [("--strengthen", f"{word}:{concept}") for word, concept in ask.concepts.items()]
    options += [("--strength", float(ask.strength))] if ask.concepts else []
    options += (
        [("--image", "picture.png"), ("--skip", float(ask.skip))] if ask.picture else [("--seeds", ask.seed)]
    )
    return "edit", [], [*options, *_steps(ask)]


def _command_compose(ask: Compose, setting: Setting) -> Command:
    options: list[tuple[str, Any]] = [("--word", word) for word in ask.words]
    options += [("--concept", f"{word}:{concept}") for word, concept in ask.concepts.items()]
    return "excite", [ask.prompt], [*options, ("--seeds", ask.seed), *_steps(ask)]


def _command_weaken(ask: Weaken, setting: Setting) -> Command:
    options: list[tuple[str, Any]] = [
        ("--count", ask.count),
        ("--factors", float(ask.factor)),
        ("--seeds", ask.seed),
    ]
    options += [("--ks", ",".join(map(str, setting.ks))), ("--random-orders", 1), ("--keep-prompts", SHOWN)]
    options += [("--judge", setting.judge)] if setting.judge not in (None, "emoji") else []
    options += [("--score", "choice" if setting.judge == "emoji" else "similarity")]
    return (
        "weaken",
        [ask.concept],
        [*options, ("--batch-size", BATCH), ("--out", setting.folder), *_steps(ask)],
    )


def _command_measure(ask: Measure, setting: Setting) -> Command:
    options: list[tuple[str, Any]] = [("--concepts", ask.concepts), ("--pictures", ask.pictures)]
    options += [("--prompts", f"{setting.folder}/prompts.txt")] if ask.prompts else []
    options += [("--until", float(ask.until))] if ask.until is not None else []
    options += [("--batch-size", ask.batch_size), ("--keep-pictures", ask.keep_pictures)]
    return "measure", [], [*options, ("--out", setting.folder), *_seeded(ask)]


_COMMANDS: dict[str, Callable[[Any, Setting], Command]] = {
    "explore": _command_explore,
    "generate": _command_generate,
    "strip": _command_strip,
    "suggest": _command_suggest,
    "edit": _command_edit,
    "compose": _command_compose,
    "weaken": _command_weaken,
    "measure": _command_measure,
}
