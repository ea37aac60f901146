"""Samplers by their common names: "Euler a", "DPM++ 2M Karras", "UniPC".

A sampler is a scheduler of diffusers, made from the model's own, whose noise schedule it keeps. Models
trained by flow matching keep their own sampler.
"""

import difflib
import inspect
import re
from typing import Any, NamedTuple

from headwise.errors import HeadwiseError

__all__ = ["SAMPLERS", "sampler_of", "samplers_for", "use_sampler"]


class Sampler(NamedTuple):
    """The class of a scheduler of diffusers, and the options that it is made with."""

    scheduler: str
    options: dict[str, Any] = {}


KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
ODE = {"algorithm_type": "dpmsolver++"}
SAMPLERS = {
    "Euler": Sampler("EulerDiscreteScheduler"),
    "Euler Karras": Sampler("EulerDiscreteScheduler", KARRAS),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "Heun": Sampler("HeunDiscreteScheduler"),
    "Heun Karras": Sampler("HeunDiscreteScheduler", KARRAS),
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", ODE),
    "DPM++ 2M Karras": Sampler("DPMSolverMultistepScheduler", ODE | KARRAS),
    "DPM++ 2M SDE": Sampler("DPMSolverMultistepScheduler", SDE),
    "DPM++ 2M SDE Karras": Sampler("DPMSolverMultistepScheduler", SDE | KARRAS),
    "UniPC": Sampler("UniPCMultistepScheduler"),
    "UniPC Karras": Sampler("UniPCMultistepScheduler", KARRAS),
    "DEIS": Sampler("DEISMultistepScheduler"),
    "DDIM": Sampler("DDIMScheduler"),
    "DDPM": Sampler("DDPMScheduler"),
    "PNDM": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
    "LCM": Sampler("LCMScheduler"),
    "TCD": Sampler("TCDScheduler"),
}
ALSO = {"plms": "PNDM", "dpmsolver": "DPM++ 2M"}


def use_sampler(pipe: Any, name: str) -> None:
    """Give a pipeline the scheduler of this name, made from its own.

    Args:
        pipe: The pipeline, which is changed.
        name: One of SAMPLERS in any spelling: "euler-a", "DPM++ 2M Karras", "dpmpp_2m_karras".

    Raises:
        HeadwiseError: The sampler is unknown, or does not fit this model.
    """
    import diffusers

    label = _known(name)
    made = SAMPLERS[label]
    if not _fits(pipe, made):
        raise HeadwiseError(
            f"The sampler {label} was given, but {type(pipe).__name__} was trained by flow matching and "
            f"keeps its {type(pipe.scheduler).__name__}. Leave the sampler out."
        )
    if _is_flow(pipe.scheduler):
        return
    # Options of the model's own scheduler must not carry over, and latents are never clipped.
    options = {"use_karras_sigmas": False, "clip_sample": False, **made.options}
    kind = getattr(diffusers, made.scheduler)
    taken = inspect.signature(kind.__init__).parameters
    options = {key: value for key, value in options.items() if key in taken}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)


def sampler_of(pipe: Any) -> str:
    """The name of a pipeline's sampler; that of its class if it is not in SAMPLERS."""
    kind, config = type(pipe.scheduler).__name__, pipe.scheduler.config
    for label, (scheduler, options) in SAMPLERS.items():
        options = {"use_karras_sigmas": False} | ({} if label == "PNDM" else options)
        if kind == scheduler and all((config.get(key) or False) == value for key, value in options.items()):
            return label
    return kind.removesuffix("Scheduler")


def samplers_for(pipe: Any) -> list[str]:
    """The names of the samplers that fit a pipeline."""
    return [label for label, made in SAMPLERS.items() if _fits(pipe, made)]


def _fits(pipe: Any, made: Sampler) -> bool:
    """Whether this sampler can be made from the pipeline's scheduler; one of flow matching is kept."""
    name = type(pipe.scheduler).__name__.removeprefix("FlowMatch")
    is_same = made.scheduler == name and not made.options.get("use_karras_sigmas")
    return is_same or not _is_flow(pipe.scheduler)


def _known(name: str) -> str:
    """The name in SAMPLERS that a spelling stands for."""
    labels = {_plain(label): label for label in SAMPLERS} | ALSO
    if (label := labels.get(_plain(name))) is not None:
        return label
    near = difflib.get_close_matches(_plain(name), list(labels), 1)
    meant = f" Did you mean {labels[near[0]]!r}?" if near else ""
    raise HeadwiseError(f"Unknown sampler {name!r}.{meant} Give one of: {', '.join(SAMPLERS)}.")


def _plain(name: str) -> str:
    name = re.sub(r"[^a-z0-9+]", "", name.lower())
    return name.replace("pp", "++").replace("ancestral", "a")


def _is_flow(scheduler: Any) -> bool:
    """Whether the model predicts the flow from noise to image, not the noise."""
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )
