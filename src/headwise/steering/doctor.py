"""A check-up of one pipeline: whether hooks cover every layer and change nothing, and what measuring costs.

The latents of one image are computed with one step, once without hooks and once with a hook that does
nothing at every layer. They must be equal bit for bit, and the hook must have been called at every layer of
the head map. Then every head's attention to the prompt is halved, and the latents must differ. Finally, the
effect of a word is measured at one call: every head must get a finite gradient, and every layer a nonzero
one.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headwise.errors import HeadwiseError
from headwise.measuring.effect import EffectProbe
from headwise.measuring.plan import work_seconds
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of, wrapped_denoiser_of
from headwise.model.memory import memory_of
from headwise.model.modes import caches_of, require_no_cache
from headwise.model.pipelines import model_name, quiet
from headwise.model.sites import Attend, Site
from headwise.runs.folder import versions
from headwise.steering.steer import weaken

__all__ = ["Checkup", "EffectCheckup", "examine", "features_of"]

PROMPT, WORD = "a photo of a dog", "dog"


@dataclass(frozen=True)
class EffectCheckup:
    """Whether relevance by effect can be measured.

    Args:
        error: Why it cannot be measured; empty if it can.
        heads: The number of heads with a finite, nonzero gradient.
        seconds_a_call: The seconds that measuring adds to one call of one image.
        peak_mb: The peak memory so far, gradient included, in MiB: see `Checkup`.
    """

    error: str
    heads: int = 0
    seconds_a_call: float = math.nan
    peak_mb: float = math.nan

    def seconds(self, pictures: int, num_inference_steps: int, seconds_a_call: float) -> float:
        """The expected seconds of a measurement at one call per image."""
        return work_seconds(pictures, num_inference_steps, seconds_a_call) + pictures * self.seconds_a_call


@dataclass(frozen=True)
class Checkup:
    """The result of `examine`.

    Args:
        model: The pipeline's name.
        head_map: Its heads.
        reached: The addresses of the layers at which the hook was called.
        bit_exact: Whether the latents were equal, bit for bit, with a hook that does nothing.
        steered: Whether the latents differed when heads attended less to the prompt.
        error: Why hooking was refused, or the probe would be; empty if neither.
        seconds_a_call: The seconds of one denoiser call for one image, with both rows of guidance.
        weights_mb: The size of all weights, in MiB.
        peak_mb: The peak memory so far, weights included, in MiB: of the denoiser's GPU, or of this process
            if the denoiser is not on a GPU.
        versions: The versions of Python and of the packages that affect results, by name.
        pipeline: The name of the pipeline's class.
        features: What is enabled in the pipeline: see `features_of`.
        effect: Whether relevance by effect can be measured.
    """

    model: str
    head_map: HeadMap
    reached: frozenset[str]
    bit_exact: bool
    steered: bool
    error: str
    seconds_a_call: float
    weights_mb: float
    peak_mb: float
    versions: dict[str, str]
    pipeline: str
    features: tuple[str, ...]
    effect: EffectCheckup

    @property
    def covered(self) -> bool:
        """Whether hooks reach every layer, change nothing by themselves, and can steer and measure."""
        every = self.reached == {layer.address for layer in self.head_map}
        return every and self.bit_exact and self.steered and not self.error

    def seconds(self, pictures: int, num_inference_steps: int) -> float:
        """The expected seconds of a measurement by votes, without its overhead over the denoiser calls."""
        return work_seconds(pictures, num_inference_steps, self.seconds_a_call)


def examine(
    pipe: Any, *, guidance_scale: float = 7.5, height: int | None = None, width: int | None = None
) -> Checkup:
    """Run denoiser calls with and without hooks, and compare their latents; the pipeline is left unchanged.

    Args:
        pipe: The pipeline to examine.
        guidance_scale: The weight of classifier-free guidance, as the pipeline takes it.
        height: The height of the image in pixels; None takes the pipeline's default.
        width: The width of the image in pixels; None takes the pipeline's default.
    """
    reached: set[str] = set()

    def look(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        reached.add(site.address)
        return attend(query, key, value)

    options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": guidance_scale}
    options |= {"height": height, "width": width, "output_type": "latent"}

    def latents() -> Tensor:
        return generate(pipe, [PROMPT], 0, [0], **options).cpu()  # waits until they are computed

    refused, unchanged, steered = "", None, False
    head_map = HeadMap.of(pipe)
    with quiet(pipe):
        plain = latents()  # also warms up, so that the timed call is an ordinary one
        started = time.perf_counter()
        latents()
        seconds = time.perf_counter() - started
        try:
            with hooked(pipe, look):
                unchanged = latents()
            with hooked(pipe, weaken(head_map, range(head_map.all_heads), factor=0.5)):
                steered = not torch.equal(plain, latents())
            require_no_cache(denoiser_of(pipe))
        except HeadwiseError as error:
            refused = str(error)
    weights, peak = memory_of(pipe)
    effect = EffectCheckup(refused) if refused else _examine_effect(pipe, latents, seconds)
    return Checkup(
        model=model_name(pipe),
        head_map=head_map,
        reached=frozenset(reached),
        bit_exact=unchanged is not None and torch.equal(plain, unchanged),
        steered=steered,
        error=refused,
        seconds_a_call=seconds,
        weights_mb=weights,
        peak_mb=peak,
        versions=versions() | {"python": sys.version.split()[0]},
        pipeline=type(pipe).__name__,
        features=features_of(pipe),
        effect=effect,
    )


def _examine_effect(pipe: Any, latents: Callable[[], Tensor], unmeasured: float) -> EffectCheckup:
    """Measure the effect of a word at one call, twice: the first warms up."""
    probe, head_map = EffectProbe(WORD), HeadMap.of(pipe)
    try:
        with quiet(pipe), hooked(pipe, probe):
            latents()
            probe.take()
            started = time.perf_counter()
            latents()
            seconds = time.perf_counter() - started
    except (HeadwiseError, RuntimeError) as error:  # out of memory, or what torch cannot differentiate
        return EffectCheckup(str(error).partition("\n")[0] or type(error).__name__)
    through = probe.take().through.sum((0, 1, 2))
    reached = np.isfinite(through) & (through != 0)
    missing = [
        layer.address
        for layer, (start, stop) in zip(head_map.layers, head_map.slices, strict=True)
        if not reached[start:stop].any()
    ]
    problem = ""
    if not np.isfinite(through).all():
        problem = "The gradient of some heads is not finite. Load the model in fp32 or bf16."
    elif missing:
        problem = f"No gradient reaches the heads of {missing[0]} and of {len(missing) - 1} more layers."
    extra = max(seconds - unmeasured, 0.0)
    return EffectCheckup(problem, int(reached.sum()), extra, memory_of(pipe)[1])


def features_of(pipe: Any) -> tuple[str, ...]:
    """What is enabled in a pipeline beyond its defaults, named as in docs/compatibility.md."""
    denoiser = denoiser_of(pipe)
    components = getattr(pipe, "components", {})
    projections = getattr(denoiser, "encoder_hid_proj", None)
    features = {
        str(denoiser.dtype).removeprefix("torch."): denoiser.dtype is not torch.float32,
        "offloading": hasattr(denoiser, "_hf_hook"),
        "LoRA": bool(getattr(denoiser, "peft_config", None)),
        "IP-Adapter": hasattr(projections, "image_projection_layers"),
        "ControlNet": components.get("controlnet") is not None,
        "torch.compile": wrapped_denoiser_of(pipe) is not denoiser
        or getattr(denoiser, "_compiled_call_impl", None) is not None,
        "caching": bool(caches_of(denoiser)),
        "fused projections": any(getattr(m, "fused_projections", False) for m in denoiser.modules()),
    }
    return tuple(name for name, on in features.items() if on)
