"""Jobs that generate images: plain and steered, edited, composed. Each image shows as soon as it is there.

Every method is the library's own (calls.py); an image here is the one that the same settings give in Python.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from headwise.editing.prompt_to_prompt import check_targets
from headwise.editing.support import require_support
from headwise.errors import HeadwiseError
from headwise.measuring.relevance import Relevance
from headwise.model.pipelines import watched
from headwise.model.samplers import sampler_of
from headwise.pictures import png_of
from headwise.web import calls
from headwise.web.expressions import Call, evaluate, to_python
from headwise.web.jobs import Cancelled, Job
from headwise.web.requests import Compose, Drawing, Edit, Generate, Strip, Suggest
from headwise.web.session import ModelSession

__all__ = ["cached_images", "compose", "edit", "generate", "image_settings", "strip", "suggest"]

CACHED = 64  # images kept, so that a slider that comes back finds its image
Images = Sequence[Image.Image]

log = logging.getLogger("headwise.web")


def image_settings(session: ModelSession, request: Drawing, **more: Any) -> dict[str, Any]:
    """What a PNG records of how it was made."""
    settings = {"prompt": request.prompt, "model": session.model, "seed": request.seed}
    loaded = {**session.at_work, "sampler": sampler_of(session.pipe)}
    return {**settings, **loaded, **calls.sampling(request), **more}


def generate(session: ModelSession, request: Generate, job: Job, relevance: Relevance) -> None:
    """Generate the prompt plain and steered, from the same latents."""
    spelled = [calls.spell(steering) for steering in request.steering]
    job.set_progress(0, 2 * request.num_inference_steps * request.pictures)
    for column, times in (("plain", 0.0), ("steered", 1.0)):
        for number, image in enumerate(_compared(session, relevance, request, times, request.pictures, job)):
            steering = spelled if times else []
            settings = image_settings(session, request, picture=number, steering=steering, column=column)
            job.add_result(png_of(image, settings), column=column, number=number)


def strip(session: ModelSession, request: Strip, job: Job, relevance: Relevance) -> None:
    """Generate one image at several multiples of the steering's strength."""
    spelled = [calls.spell(steering) for steering in request.steering]
    job.set_progress(0, len(request.strengths) * request.num_inference_steps)
    for times in request.strengths:
        (image,) = _compared(session, relevance, request, times, 1, job)
        settings = image_settings(session, request, steering=spelled, times=times)
        job.add_result(png_of(image, settings), column=f"× {times:g}", times=times)


def suggest(session: ModelSession, request: Suggest, job: Job, relevance: Relevance) -> None:
    """Find the concepts whose heads a word activates."""
    suggestion = calls.suggest(request)
    job.set_progress(0, suggestion.kwargs["num_inference_steps"])
    with watched(session.pipe, job.step):
        variables = {"pipe": session.pipe, "relevance": relevance}
        suggestions = evaluate(suggestion, variables, progress=False)
    job.add_result(word=request.word, concepts=[suggestion._asdict() for suggestion in suggestions[:8]])


def edit(
    session: ModelSession, request: Edit, job: Job, relevance: Relevance | None, upload: Image.Image | None
) -> None:
    """Edit an image by its prompt, in every way that the request names.

    Args:
        session: The model.
        request: The request.
        job: The job, which receives the source and an edit for each way.
        relevance: The relevance by which changed words are strengthened, if any was measured.
        upload: The image to edit; None to generate it.
    """
    require_support(session.pipe, "PromptToPrompt")  # which makes the source of all other ways
    check_targets(session.pipe, request.prompt, [request.target])
    hooks = calls.edit_hooks(request, measured=relevance is not None)
    finished = calls.edit_finished(request)
    ways = len(hooks) + len(finished) + (2 if upload is not None else 0)
    job.set_progress(0, ways * request.num_inference_steps)
    variables = {"pipe": session.pipe, "relevance": relevance, "picture": upload}
    source: Image.Image | None = None

    def show(column: str, image: Image.Image, prompt: str) -> None:
        more = {"target": request.target, "strengthen": request.concepts, "strength": request.strength}
        settings = image_settings(session, request, **more) | {"column": column, "prompt": prompt}
        job.add_result(png_of(image, settings), column=column)

    with watched(session.pipe, job.step):
        if upload is not None:
            variables["inverted"] = evaluate(calls.invert(request), variables)
            job.add_result(psnr=variables["inverted"].psnr, limit=variables["inverted"].limit)
        for name, hook in hooks.items():
            images = _attempt(job, name, lambda hook=hook: _edited(request, hook, variables))  # type: ignore[misc]
            if images and source is None:
                source = variables["source"] = images[0]
                show("source", source, request.prompt)
            if images:
                show(name, images[1], request.target)
        for name, way in finished.items() if source is not None else ():
            images = _attempt(job, name, lambda way=way: evaluate(way, variables))  # type: ignore[misc]
            if images:
                show(name, images[0], request.target)


def compose(session: ModelSession, request: Compose, job: Job, relevance: Relevance | None) -> None:
    """Generate a prompt of several subjects: plain, by relevance, and by the baselines."""
    require_support(session.pipe, "Excite")
    for word in request.words:
        if word not in request.concepts and request.concepts:
            raise HeadwiseError(f"No concept was chosen for {word!r}. Choose one for each subject, or none.")
    ways = calls.excite(request, measured=relevance is not None)
    settings = image_settings(session, request, words=request.words, concepts=request.concepts)
    variables = {"pipe": session.pipe, "relevance": relevance}
    job.set_progress(0, len(ways) * request.num_inference_steps)
    with watched(session.pipe, job.step):
        for name, way in ways.items():
            images = _attempt(job, name, lambda way=way: evaluate(way, variables))  # type: ignore[misc]
            if images:
                job.add_result(png_of(images[0], settings | {"column": name}), column=name)


def _compared(
    session: ModelSession,
    relevance: Relevance,
    request: Generate | Strip,
    times: float,
    pictures: int,
    job: Job,
) -> Images:
    """Images with the steering `times` as strong, or plain ones for 0; from the cache if they are there."""
    comparison = calls.compare(request, {"": times}, pictures, relevance.kind)
    measured = (request.relevance, relevance.settings.get("pictures")) if times else ()
    steps = pictures * request.num_inference_steps
    return cached_images(session, comparison, job, steps, measured, relevance=relevance)


def cached_images(
    session: ModelSession, comparison: Call, job: Job, steps: int, measured: Any = (), **variables: Any
) -> Images:
    """The images of a comparison's one column, whose name is ""; from the cache if they are there.

    Args:
        session: The model, and the cache.
        comparison: The comparison.
        job: The job, which advances by `steps`.
        steps: The denoising steps of all images.
        measured: What else decides on the images besides the comparison.
        variables: The values of the comparison's names, besides the pipeline.
    """
    key, cache = (to_python(comparison), measured, repr(session.at_work)), session.images
    if key in cache:
        job.set_progress(job.done + steps, job.total)
    else:
        with watched(session.pipe, job.step):
            cache[key] = evaluate(comparison, {"pipe": session.pipe, **variables}, progress=False)[""]
    cache.move_to_end(key)
    while len(cache) > CACHED:
        cache.popitem(last=False)
    return cache[key]


def _edited(request: Edit, hook: Call, variables: dict[str, Any]) -> Images:
    """The source and its edit by one hook."""
    variables = variables | {"hook": evaluate(hook, variables)}
    if request.picture is None:
        return evaluate(calls.edit(request), variables, progress=False)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a poor inversion, whose psnr the page shows
        return evaluate(calls.edit(request), variables)


def _attempt(job: Job, column: str, generate: Callable[[], Images]) -> Images:
    """The images of one way of several; none, and the reason as a result, if it does not work."""
    try:
        return generate()
    except Cancelled:
        raise
    except HeadwiseError as error:
        job.add_result(column=column, error=str(error))
    except Exception as error:  # a baseline written for other pipelines may fail in any way
        log.warning("%s does not work here.", column, exc_info=True)
        error_text = f"This method does not work with this model ({type(error).__name__})."
        job.add_result(column=column, error=error_text)
    return []
