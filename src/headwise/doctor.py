"""A check-up of one pipeline: are all layers covered, is nothing disturbed, what would measuring cost?

The same picture's latents are computed with one step, once plainly and once with a hook that does nothing at
every layer. They must be equal bit for bit, and the hook must have stood at every layer of the head map.
"""

__all__ = ["Checkup", "examine"]

import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attention import Attend, Site, hooked
from headwise.errors import HeadwiseError
from headwise.generate import generate
from headwise.heads import HeadMap, denoiser_of
from headwise.pipelines import model_name, quiet


@dataclass(frozen=True)
class Checkup:
    """What `examine` found.

    Args:
        model: The pipeline's name.
        head_map: Its heads.
        reached: The addresses at which the hook stood.
        undisturbed: Were the latents equal bit for bit?
        complaint: What the door said if it refused.
        seconds_a_call: One denoiser call for one picture, both guidance rows.
        weights_mb: The size of all weights.
        peak_mb: The most memory this process has held, weights included.
        versions: Of the packages that decide results.
    """

    model: str
    head_map: HeadMap
    reached: frozenset[str]
    undisturbed: bool
    complaint: str
    seconds_a_call: float
    weights_mb: float
    peak_mb: float
    versions: dict[str, str]

    @property
    def covered(self) -> bool:
        """Does every layer pass the door with nothing disturbed?"""
        return self.undisturbed and self.reached == {layer.address for layer in self.head_map}

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

    complaint, hooked_latents = "", None
    with quiet(pipe):
        plain = draw()  # also warms up, so that the timed call is an ordinary one
        started = time.perf_counter()
        draw()
        seconds = time.perf_counter() - started
        try:
            with hooked(pipe, look):
                hooked_latents = draw()
        except HeadwiseError as error:
            complaint = str(error)
    return Checkup(
        model=model_name(pipe),
        head_map=HeadMap.of(pipe),
        reached=frozenset(reached),
        undisturbed=hooked_latents is not None and torch.equal(plain, hooked_latents),
        complaint=complaint,
        seconds_a_call=seconds,
        weights_mb=_weights(pipe) / 2**20,
        peak_mb=_peak(denoiser_of(pipe).device) / 2**20,
        versions={name: version(name) for name in ("headwise", "torch", "diffusers", "transformers", "numpy")}
        | {"python": sys.version.split()[0]},
    )


def _weights(pipe: Any) -> int:
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def _peak(device: torch.device) -> int:
    """Bytes at the highest, on the GPU where the denoiser is on one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil  # comes with accelerate

    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", None) or _resident_peak() or memory.rss


def _resident_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows, which psutil answers for
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
