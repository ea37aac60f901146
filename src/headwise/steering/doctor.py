"""A check-up of one pipeline: is every layer covered, does hooking change nothing, what would measuring cost?

The latents of one picture are computed with one step, once without hooks and once with a hook that does
nothing at every layer. They must be equal bit for bit, and the hook must have been called at every layer of
the head map. Then every head's attention to the prompt is halved, and the latents must differ.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwise.errors import HeadwiseError
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

__all__ = ["Checkup", "examine", "features_of"]


@dataclass(frozen=True)
class Checkup:
    """The result of `examine`.

    Args:
        model: The pipeline's name.
        head_map: Its heads.
        reached: The addresses of the layers at which the hook was called.
        bit_exact: Whether a hook that does nothing left the latents equal bit for bit.
        steered: Whether the latents differed where heads attended less to the prompt.
        error: Why hooking was refused, or would be to the probe; empty if it was not.
        seconds_a_call: The seconds of one denoiser call for one picture, with both rows of guidance.
        weights_mb: The size of all weights, in MiB.
        peak_mb: The most memory held so far, weights included, in MiB: of the denoiser's GPU, or of this
            process where it is on none.
        versions: The versions of Python and of the packages that decide results, by name.
        pipeline: The name of the pipeline's class.
        features: What is switched on in the pipeline: see `features_of`.
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

    @property
    def covered(self) -> bool:
        """Whether hooks reach every layer, change nothing by themselves, and can steer and measure."""
        every = self.reached == {layer.address for layer in self.head_map}
        return every and self.bit_exact and self.steered and not self.error

    def seconds(self, pictures: int, num_inference_steps: int) -> float:
        """The expected time of a measurement, whose own cost beside the denoiser is not known here."""
        return work_seconds(pictures, num_inference_steps, self.seconds_a_call)


def examine(
    pipe: Any, *, guidance_scale: float = 7.5, height: int | None = None, width: int | None = None
) -> Checkup:
    """Run denoiser calls with and without hooks, and compare their latents; the pipeline is left as it was.

    Args:
        pipe: The pipeline to examine.
        guidance_scale: The weight of classifier-free guidance, as the pipeline takes it.
        height: The height of the picture in pixels; None takes the pipeline's default.
        width: The width of the picture in pixels; None takes the pipeline's default.
    """
    reached: set[str] = set()

    def look(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        reached.add(site.address)
        return attend(query, key, value)

    def latents() -> Tensor:
        options: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": guidance_scale}
        options |= {"height": height, "width": width, "output_type": "latent"}
        return generate(pipe, ["a photo of a dog"], 0, [0], **options)

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
    )


def features_of(pipe: Any) -> tuple[str, ...]:
    """What is switched on in a pipeline beyond its defaults, in the words of docs/compatibility.md."""
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
