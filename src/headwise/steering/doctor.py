"""A check-up of one pipeline: are all layers covered, is nothing disturbed, what would measuring cost?

The same picture's latents are computed with one step, once plainly and once with a hook that does nothing at
every layer. They must be equal bit for bit, and the hook must have stood at every layer of the head map. Then
every head hears the prompt less, and the latents must be others.
"""

__all__ = ["Checkup", "examine", "switched_on"]

import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from headwise.errors import HeadwiseError
from headwise.model.attention import hooked
from headwise.model.device import memory_of
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of, wrapped_denoiser_of
from headwise.model.pipelines import model_name, quiet
from headwise.model.sites import Attend, Site
from headwise.steering.steer import weaken


@dataclass(frozen=True)
class Checkup:
    """What `examine` found.

    Args:
        model: The pipeline's name.
        head_map: Its heads.
        reached: The addresses at which the hook stood.
        undisturbed: Were the latents equal bit for bit?
        steered: Were they others where heads heard less?
        complaint: What the door said if it refused.
        seconds_a_call: One denoiser call for one picture, both guidance rows.
        weights_mb: The size of all weights.
        peak_mb: The most memory this process has held, weights included.
        versions: Of the packages that decide results.
        family: The pipeline's class, and what is switched on in it.
    """

    model: str
    head_map: HeadMap
    reached: frozenset[str]
    undisturbed: bool
    steered: bool
    complaint: str
    seconds_a_call: float
    weights_mb: float
    peak_mb: float
    versions: dict[str, str]
    family: tuple[str, ...]

    @property
    def covered(self) -> bool:
        """Does every layer pass the door, with nothing disturbed by looking and something by steering?"""
        every = self.reached == {layer.address for layer in self.head_map}
        return every and self.undisturbed and self.steered

    def seconds(self, pictures: int, num_inference_steps: int) -> float:
        """Expected time of a measurement, which calls the denoiser once a step and decodes nothing."""
        return self.seconds_a_call * pictures * num_inference_steps


def examine(
    pipe: Any, *, guidance_scale: float = 7.5, height: int | None = None, width: int | None = None
) -> Checkup:
    """Run one denoiser call plainly and one hooked, and compare; the pipeline is left as it was."""
    reached: set[str] = set()

    def look(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        reached.add(site.address)
        return attend(query, key, value)

    def draw() -> Tensor:
        options: dict[str, Any] = {
            "num_inference_steps": 1,
            "guidance_scale": guidance_scale,
            "output_type": "latent",
        }
        return generate(pipe, ["a photo of a dog"], 0, [0], height=height, width=width, **options)

    complaint, hooked_latents, steered = "", None, False
    head_map = HeadMap.of(pipe)
    less = weaken(head_map, range(head_map.all_heads), factor=0.5)
    with quiet(pipe):
        plain = draw()  # also warms up, so that the timed call is an ordinary one
        started = time.perf_counter()
        draw()
        seconds = time.perf_counter() - started
        try:
            with hooked(pipe, look):
                hooked_latents = draw()
            with hooked(pipe, less):
                steered = not torch.equal(plain, draw())
        except HeadwiseError as error:
            complaint = str(error)
    weights, peak = memory_of(pipe)
    return Checkup(
        model=model_name(pipe),
        head_map=head_map,
        reached=frozenset(reached),
        undisturbed=hooked_latents is not None and torch.equal(plain, hooked_latents),
        steered=steered,
        complaint=complaint,
        seconds_a_call=seconds,
        weights_mb=weights,
        peak_mb=peak,
        versions={name: version(name) for name in ("headwise", "torch", "diffusers", "transformers", "numpy")}
        | {"python": sys.version.split()[0]},
        family=(type(pipe).__name__, *switched_on(pipe)),
    )


def switched_on(pipe: Any) -> tuple[str, ...]:
    """What is not as it comes in a pipeline, in the words of docs/compatibility.md."""
    denoiser = denoiser_of(pipe)
    parts = getattr(pipe, "components", {})
    projections = getattr(denoiser, "encoder_hid_proj", None)
    looks = {
        str(denoiser.dtype).removeprefix("torch."): denoiser.dtype is not torch.float32,
        "offloading": hasattr(denoiser, "_hf_hook"),
        "LoRA": bool(getattr(denoiser, "peft_config", None)),
        "IP-Adapter": hasattr(projections, "image_projection_layers"),
        "ControlNet": parts.get("controlnet") is not None,
        "torch.compile": wrapped_denoiser_of(pipe) is not denoiser
        or getattr(denoiser, "_compiled_call_impl", None) is not None,
        "fused projections": any(getattr(m, "fused_projections", False) for m in denoiser.modules()),
    }
    return tuple(name for name, on in looks.items() if on)
