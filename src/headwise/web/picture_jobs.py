"""Pictures that are asked for: plain and steered, edited, composed. Each shows as soon as it is drawn.

Every method is the library's own; what it draws here is what the same settings draw in Python.
"""

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from headwise.editing.attend_and_excite import Excite, excite
from headwise.editing.baselines.composable import compose as add_up
from headwise.editing.baselines.free_prompt import FreePrompt
from headwise.editing.baselines.masactrl import MasaCtrl
from headwise.editing.baselines.plug_and_play import PlugAndPlay
from headwise.editing.baselines.sdedit import sdedit
from headwise.editing.inversion import edit_picture, invert
from headwise.editing.prompt_to_prompt import PromptToPrompt, check_targets
from headwise.editing.prompt_to_prompt import edit as draw_edit
from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import watched
from headwise.pictures import png_of
from headwise.steering.compare import compare
from headwise.steering.steer import Steer, adjust, strengthen
from headwise.steering.suggest import suggest as ask_heads
from headwise.web.jobs import Cancelled, Job
from headwise.web.requests import Compose, Drawing, Edit, Generate, Steering, Strip, Suggest
from headwise.web.session import Workbench

__all__ = ["compose", "edit", "generate", "options_of", "format_ranges", "strip", "suggest"]

KEPT = 64  # pictures drawn before, so that a slider that comes back finds its own
SDEDIT = 0.5

log = logging.getLogger("headwise.web")


def options_of(ask: Any) -> dict[str, Any]:
    """What the pipeline is called with."""
    return {"num_inference_steps": ask.num_inference_steps, "guidance_scale": ask.guidance_scale}


def format_ranges(bench: Workbench, ask: Drawing, **more: Any) -> dict[str, Any]:
    """What a PNG says of itself."""
    return {"prompt": ask.prompt, "model": bench.model, "seed": ask.seed, **options_of(ask), **more}


def generate(bench: Workbench, relevance: Relevance, ask: Generate, job: Job) -> None:
    """The prompt plain and steered, from the same latents."""
    columns: list[tuple[str, float | None]] = [("plain", None), ("steered", 1.0)]
    job.count(0, 2 * ask.num_inference_steps * ask.pictures)
    for name, times in columns:
        for number, picture in enumerate(_drawn(bench, relevance, ask, times, ask.pictures, job)):
            told = format_ranges(bench, ask, picture=number, steering=[] if times is None else _spelled(ask))
            job.add(png_of(picture, told | {"column": name}), column=name, number=number)


def strip(bench: Workbench, relevance: Relevance, ask: Strip, job: Job) -> None:
    """One picture at several strengths, those of the steering multiplied."""
    job.count(0, len(ask.strengths) * ask.num_inference_steps)
    for times in ask.strengths:
        (picture,) = _drawn(bench, relevance, ask, times, 1, job)
        told = format_ranges(bench, ask, steering=_spelled(ask), times=times)
        job.add(png_of(picture, told), column=f"× {times:g}", times=times)


def suggest(bench: Workbench, relevance: Relevance, ask: Suggest, job: Job) -> None:
    """The concepts whose heads a word excites."""
    steps = min(8, ask.num_inference_steps)
    job.count(0, steps)
    with watched(bench.pipe, job.step):
        found = ask_heads(
            bench.pipe,
            relevance,
            ask.prompt,
            ask.word,
            pictures=4,
            batch_size=4,
            seed=ask.seed,
            num_inference_steps=steps,
            guidance_scale=ask.guidance_scale,
            progress=False,
        )
    job.add(word=ask.word, concepts=[one._asdict() for one in found[:8]])


def edit(
    bench: Workbench, relevance: Relevance | None, ask: Edit, sent: Image.Image | None, job: Job
) -> None:
    """A picture edited by its prompt, in every way that was asked for."""
    check_targets(bench.pipe, ask.prompt, [ask.target])
    hooked: dict[str, Callable[[], Sequence[Any]]] = {
        "prompt-to-prompt": lambda: [PromptToPrompt()],
        "plug-and-play": lambda: [PlugAndPlay()],
        "masactrl": lambda: [MasaCtrl()],
        "free-prompt": lambda: [FreePrompt()],
    }
    rivals: list[str] = list(ask.rivals)
    ways = {name: make for name, make in hooked.items() if name in rivals}
    if ask.concepts and relevance is not None:
        p2p = PromptToPrompt(relevance=relevance, concepts=ask.concepts, strength=ask.strength)
        ways = {"relevance": lambda: [p2p], **ways}
    ways = ways or {"prompt-to-prompt": hooked["prompt-to-prompt"]}
    told = format_ranges(bench, ask, target=ask.target, strengthen=ask.concepts, strength=ask.strength)

    def show(column: str, picture: Image.Image, prompt: str) -> None:
        job.add(png_of(picture, told | {"column": column, "prompt": prompt}), column=column)

    inverting = 2 if sent is not None else 0
    job.count(0, (len(ways) + inverting + ("sdedit" in rivals)) * ask.num_inference_steps)
    with watched(bench.pipe, job.step):
        draw = _drawing(bench, ask, sent, job)
        source: list[Image.Image] = []
        for name, make in ways.items():
            for pictures in _tried(job, name, lambda make=make: draw(make())):  # type: ignore[misc]
                if not source:
                    source.append(pictures[0])
                    show("source", pictures[0], ask.prompt)
                show(name, pictures[1], ask.target)
        if "sdedit" in rivals and source:
            given = sent or source[0]
            options = options_of(ask)
            for pictures in _tried(
                job,
                "sdedit",
                lambda: sdedit(
                    bench.pipe, [given], [ask.target], strength=SDEDIT, seeds=[ask.seed], **options
                ),
            ):
                show("sdedit", pictures[0], ask.target)


def compose(bench: Workbench, relevance: Relevance | None, ask: Compose, job: Job) -> None:
    """A prompt of several subjects, plain, by relevance, and by the rivals."""
    for word in ask.words:
        if word not in ask.concepts and ask.concepts:
            raise HeadwiseError(f"No concept was chosen for {word!r}. Choose one for each subject, or none.")
    pipe, options = bench.pipe, {"seeds": [ask.seed], **options_of(ask)}

    def excited(**more: Any) -> Callable[[], Sequence[Image.Image]]:
        return lambda: excite(pipe, [ask.prompt], Excite([ask.words], **more), **options)

    ways = {"plain": excited(thresholds={0.0: 0.0})}
    if ask.concepts and relevance is not None:
        ways["relevance"] = excited(relevance=relevance, concepts=ask.concepts)
    parts = ask.parts or parts_of(ask.prompt, ask.words)
    ways |= {"attend-and-excite": excited(), "composable": lambda: add_up(pipe, parts, **options)}
    told = format_ranges(bench, ask, words=ask.words, concepts=ask.concepts)
    job.count(0, len(ways) * ask.num_inference_steps)
    with watched(pipe, job.step):
        for name, draw in ways.items():
            for pictures in _tried(job, name, draw):
                job.add(png_of(pictures[0], told | {"column": name}), column=name)


def parts_of(prompt: str, words: Sequence[str]) -> list[str]:
    """What is said of each subject: its part between commas and "and", or else "a" and its word."""
    parts = [part.strip() for part in re.split(r",|\band\b", prompt) if part.strip()]
    found = []
    for word in words:
        mine = [part for part in parts if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", part, re.I)]
        found.append(mine[0] if len(mine) == 1 and len(parts) > 1 else f"a {word}")
    return found


def hook_of(relevance: Relevance, asked: Steering, times: float = 1.0) -> Steer:
    """The hook of one steering, its strength multiplied."""
    strength, occurrence = asked.strength * times, asked.occurrence
    if asked.away is None:
        return strengthen(relevance, asked.word, asked.concept, strength, occurrence=occurrence)
    return adjust(relevance, asked.word, asked.concept, asked.away, strength, occurrence=occurrence)


def _drawn(
    bench: Workbench,
    relevance: Relevance,
    ask: Generate | Strip,
    times: float | None,
    pictures: int,
    job: Job,
) -> list[Image.Image]:
    """The pictures with the steering so many times as strong, without it if None; those of before, if any."""
    pipe, key = bench.pipe, (ask.prompt, ask.seed, pictures, *options_of(ask).values())
    if times:
        key = (*key, ask.relevance, relevance.settings.get("pictures"), *_spelled(ask, times))
    if key not in bench.drawn:
        hooks = [hook_of(relevance, one, times) for one in ask.steering] if times else []
        with watched(pipe, job.step):
            found = compare(
                pipe,
                ask.prompt,
                {"": hooks},
                seed=ask.seed,
                pictures=pictures,
                batch_size=1,
                progress=False,
                **options_of(ask),
            )
        bench.drawn[key] = found[""]
    else:
        job.count(job.done + pictures * ask.num_inference_steps, job.total)
    bench.drawn.move_to_end(key)
    while len(bench.drawn) > KEPT:
        bench.drawn.popitem(last=False)
    return bench.drawn[key]


def _drawing(
    bench: Workbench, ask: Edit, sent: Image.Image | None, job: Job
) -> Callable[[Sequence[Any]], Sequence[Image.Image]]:
    """From hooks to the source and its edit: of a prompt, or of a picture that was sent."""
    if sent is None:

        def of_prompt(hooks: Sequence[Any]) -> Sequence[Image.Image]:
            options = options_of(ask) | {"progress": False}
            return draw_edit(bench.pipe, ask.prompt, [ask.target], *hooks, seeds=[ask.seed], **options)[0]

        return of_prompt
    found = invert(bench.pipe, sent, ask.prompt, num_inference_steps=ask.num_inference_steps)
    job.add(psnr=found.psnr, limit=found.limit)

    def of_picture(hooks: Sequence[Any]) -> Sequence[Image.Image]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # psnr was told
            return edit_picture(
                bench.pipe, found, [ask.target], hooks, guidance_scale=ask.guidance_scale, skip=ask.skip
            )

    return of_picture


def _tried(job: Job, column: str, draw: Callable[[], Sequence[Image.Image]]) -> list[Sequence[Image.Image]]:
    """What one way of several draws, or why it does not: a rival that cannot is no reason to show nothing."""
    try:
        return [draw()]
    except Cancelled:
        raise
    except HeadwiseError as error:
        job.add(column=column, error=str(error))
    except Exception as error:  # a rival written for other pipelines fails in whatever way
        log.warning("%s does not work here.", column, exc_info=True)
        job.add(column=column, error=f"This way does not work with this model ({type(error).__name__}).")
    return []


def _spelled(ask: Generate | Strip, times: float = 1.0) -> list[str]:
    return [spell(one, times) for one in ask.steering]


def spell(asked: Steering, times: float = 1.0) -> str:
    """One steering as the command line spells it, such as "lavender:Color-Plants*1.5"."""
    word = asked.word if asked.occurrence is None else f"{asked.word}#{asked.occurrence}"
    concepts = asked.concept if asked.away is None else f"{asked.concept}-{asked.away}"
    return f"{word}:{concepts}*{asked.strength * times:g}"
