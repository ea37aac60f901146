r"""Schedulers that walk between an image and noise: they record the path, solve for it, or replay it.

There are three kinds of walk, over the steps of two kinds of schedule. A step computes the latents of level
i + 1 from those of level i and the denoiser's output, linearly in both: x_{i+1} = a x_i + b output(x_i).

                       noise levels ᾱ (`Ddim`)                    flow matching (`Flow`), levels σ
    x_i with noise ε   √ᾱ x_0 + √(1−ᾱ) ε                          (1−σ_i) x_0 + σ_i ε
    step               DDIM's                                     Euler's, a = 1 and b = σ_{i+1} − σ_i
    mean_i, for the    that of a step that adds noise (η = 1)     Euler's step
    residuals

    Recording    x_i = x_0 with independent noise at each level, and the residuals r_i = x_{i+1} − mean_i(x_i)
    FixedPoint   from x_n to x_0: x_i ← (x_{i+1} − b output(x_i)) / a, several times
    Replaying    x_{i+1} = mean_i(x_i) + r_i, or the step itself; the source is put back on its path

With flow matching an edit by residuals is FlowEdit's: the difference of a target x* from the recorded source
evolves as x*_{i+1} − x_{i+1} = (x*_i − x_i) + (σ_{i+1} − σ_i) (output*(x*_i) − output(x_i)).

References:
    | An Edit Friendly DDPM Noise Space: Inversion and Manipulations (Huberman-Spiegelglas et al., 2023)
    | https://arxiv.org/abs/2304.06140
    | FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models (Kulikov et al., 2024)
    | https://arxiv.org/abs/2412.08629
    | On Exact Inversion of DPM-Solvers, AIDI: fixed points (Pan et al., 2023) https://arxiv.org/abs/2309.04907
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from headwise.errors import HeadwiseError
from headwise.model.generate import Key, generators_of
from headwise.model.heads import denoiser_of

__all__ = ["FixedPoint", "Recording", "Replaying", "is_flow", "walk_of"]

_Ddim: Any = DDIMScheduler  # diffusers has no types
_Flow: Any = FlowMatchEulerDiscreteScheduler


class Ddim(_Ddim):
    """The steps of a schedule with noise levels ᾱ."""

    levels: Tensor

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """The latents of an image at level i."""
        return self.add_noise(clean, noise, self.levels[i][None])

    def mean(self, output: Tensor, i: int, sample: Tensor) -> Tensor:
        """The mean of a step that adds noise."""
        # not quite 1: at ᾱ = 0, rounding takes 1 − ᾱ − σ² below 0, and its root would be NaN
        noise = {"eta": 0.999, "variance_noise": torch.zeros_like(sample)}
        return DDIMScheduler.step(self, output, self.levels[i], sample, **noise).prev_sample

    def plain(self, output: Tensor, i: int, sample: Tensor) -> Tensor:
        """The step itself."""
        return DDIMScheduler.step(self, output, self.levels[i], sample).prev_sample


class Flow(_Flow):
    """The steps of flow matching, in float32 at least."""

    sigmas: Tensor

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """The latents of an image at level i."""
        sigma = float(self.sigmas[i])
        return (1 - sigma) * clean + sigma * noise

    def plain(self, output: Tensor, i: int, sample: Tensor) -> Tensor:
        """The step itself."""
        step = float(self.sigmas[i + 1]) - float(self.sigmas[i])
        wide = torch.promote_types(sample.dtype, torch.float32)
        return sample.to(wide) + step * output.to(wide)

    mean = plain


class Walk:
    """What a walk gets from its schedule: the timesteps, and the steps of `Ddim` or `Flow`."""

    levels: Tensor
    timesteps: Tensor
    noised: Callable[[Tensor, Tensor, int], Tensor]
    mean: Callable[[Tensor, int, Tensor], Tensor]
    plain: Callable[[Tensor, int, Tensor], Tensor]


class Recording(Walk):
    """Walks from noise along a path fixed beforehand, and records the residual of each step."""

    clean: Tensor
    seed: Key

    def begin(self) -> None:
        """Fix the path: the clean latents with independent noise at each level."""
        [generator] = generators_of([self.seed])
        noises = (torch.randn(self.clean.shape, generator=generator).to(self.clean) for _ in self.levels)
        self.noisy = [self.noised(self.clean, noise, i) for i, noise in enumerate(noises)] + [self.clean]
        self.residuals: list[Tensor] = []

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Replace the latents that the pipeline passes with those of the path."""
        noisy = self.noisy[len(self.residuals)].to(sample)
        return noisy.expand_as(sample)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Go to the next latents of the path, and record their difference from the step's mean."""
        at = len(self.residuals)
        mean = self.mean(model_output, at, self.noisy[at].to(sample))
        # in float32, so that a step plus its residual gives the next latents exactly in half precision too
        wide = torch.promote_types(mean.dtype, torch.float32)
        self.residuals.append(self.noisy[at + 1].to(mean.device, wide) - mean.to(wide))
        return _stepped(self.noisy[at + 1].to(sample), return_dict)

    def path(self) -> Tensor:
        """The latents from noise to the image."""
        return torch.cat(self.noisy)


class FixedPoint(Walk):
    """Walks from the image to noise: at each level solves for the latents whose step gives the last ones."""

    iterations: int

    def begin(self) -> None:
        """Go through the timesteps in reverse, each as often as there are iterations."""
        self.timesteps = self.levels.flip(0).repeat_interleave(self.iterations)
        self.calls = 0
        self.walked: list[Tensor] = []

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Solve for the latents before the step, with the denoiser's output at the last solution."""
        if self.calls % self.iterations == 0:
            self.walked.append(sample)
        i = len(self.levels) - 1 - self.calls // self.iterations
        self.calls += 1
        unit, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        a, b = self.plain(zero, i, unit).item(), self.plain(unit, i, zero).item()
        self.last = (self.walked[-1] - b * model_output) / a
        return _stepped(self.last, return_dict)

    def path(self) -> Tensor:
        """The latents from noise to the image."""
        return torch.cat([self.last, *reversed(self.walked)])


class Replaying(Walk):
    """Regenerates: adds the residuals, and keeps the source of each group on its path."""

    way: Tensor
    residuals: Tensor | None
    group: int = 1  # a source without targets is not put back on its path
    skipped: int = 0

    def begin(self) -> None:
        """Leave out the skipped timesteps."""
        self.timesteps, self.at = self.levels[self.skipped :], self.skipped

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """Take a step with the residual added, and put the source of each group back on its path."""
        if self.residuals is not None:
            mean = self.mean(model_output, self.at, sample)
            stepped = (mean + self.residuals[self.at].to(mean.device)).to(sample.dtype)
        else:
            stepped = self.plain(model_output, self.at, sample).to(sample.dtype)
        self.at += 1
        if self.group > 1:
            stepped[:: self.group] = self.way[self.at].to(stepped)
        return _stepped(stepped, return_dict)


def is_flow(pipe: Any) -> bool:
    """Whether the pipeline's schedule is one of flow matching."""
    scheduler, config = pipe.scheduler, pipe.scheduler.config
    matching = type(scheduler).__name__.startswith("FlowMatch") or getattr(config, "use_flow_sigmas", False)
    return matching and not type(denoiser_of(pipe)).__name__.startswith("UNet")


def walk_of(pipe: Any, kind: type) -> Any:
    """A scheduler that takes this walk over the pipeline's own schedule.

    Raises:
        HeadwiseError: The schedule has neither noise levels nor flow matching's.
    """
    config, flow = pipe.scheduler.config, is_flow(pipe)
    known = hasattr(config, "prediction_type") and hasattr(pipe.scheduler, "alphas_cumprod")
    if not flow and not known:
        raise HeadwiseError(
            "Images can be inverted by a schedule with noise levels, or by flow matching in a transformer; "
            f"this pipeline has a {type(pipe.scheduler).__name__}. Use a Stable Diffusion, PixArt, Sana or "
            "FLUX pipeline with its own schedule."
        )
    base: Any = Flow if flow else Ddim

    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        base.set_timesteps(self, *args, **kwargs)
        self.levels = self.timesteps
        self.begin()

    # keeps the original's signature, which pipelines inspect
    methods = {"set_timesteps": functools.wraps(base.set_timesteps)(set_timesteps)}
    walk: Any = type(kind.__name__, (kind, base), methods)
    if not flow:
        return walk.from_config(config, clip_sample=False, thresholding=False)
    accepted = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    options = {name: value for name, value in config.items() if name in accepted}
    # other solvers of the same flow have another name for the shift
    return walk(**{"shift": getattr(config, "flow_shift", 1.0)} | options)


def _stepped(latents: Tensor, return_dict: bool) -> Any:
    return DDIMSchedulerOutput(prev_sample=latents) if return_dict else (latents,)
