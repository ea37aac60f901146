"""The training loop that the autoencoder, the two CLIPs and the denoiser share: a time budget, a checkpoint, a resumed run.

The learning rate follows the share of the *time* that is spent: warm-up, a constant rate, and in the last part of the time a cosine
down to nearly zero. So a run ends well on a machine of any speed, may be interrupted at any moment, and may be made longer until
the rate begins to fall. Checkpoints are safetensors, written beside and then renamed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from muon import Muon
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["Averaged", "Crew", "arguments", "fit", "half"]


def arguments(about: str | None, minutes: float) -> argparse.ArgumentParser:
    """The options that all trainings have."""
    parse = argparse.ArgumentParser(description=about)
    parse.add_argument("--sprites", type=Path, required=True, help="packed by sprites.pack")
    parse.add_argument("--work", type=Path, required=True, help="folder of checkpoints and results")
    parse.add_argument("--minutes", type=float, default=minutes, help="budget over all resumed runs")
    parse.add_argument(
        "--until", type=float, default=1e9, help="stop after so many of the minutes; the same command goes on"
    )
    parse.add_argument("--threads", type=int, default=torch.get_num_threads())
    parse.add_argument("--device", default="cpu")
    parse.add_argument(
        "--workers", type=int, default=0, help="processes that draw ahead; 0 draws in this one"
    )
    parse.add_argument(
        "--begin", type=Path, help="trained weights to go on from where there is no checkpoint"
    )
    return parse


def half(device: str) -> torch.autocast:
    """Products in bfloat16, except on a CPU that has to imitate it, where they take five times as long as in float32."""
    slow = device == "cpu" and not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.autocast(device, torch.bfloat16, enabled=not slow)


class Averaged:
    """Exponential moving average of a model's weights, taken every `every` steps."""

    def __init__(self, model: nn.Module, decay: float = 0.999, every: int = 8) -> None:
        self.model, self.decay, self.every = model, decay**every, every
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.updates = 0

    def update(self, step: int) -> None:
        """Take the weights in, if this step's turn has come."""
        if step % self.every:
            return
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                self.weights[name].lerp_(p, 1 - decay)


def fit(
    modules: dict[str, nn.Module],
    loss: Callable[[int], dict[str, Tensor]],
    file: Path,
    minutes: float,
    lr: float,
    batch: int,
    averaged: Averaged | None = None,
    weight_decay: float = 0.01,
    floor: float = 0.0,
    fall: float = 1.0,
    every: float = 60,
    orthogonal: bool = False,
    until: float = 1e9,
) -> dict[str, float]:
    """Minimise `loss(step)["loss"]` for so many minutes over all resumed runs: of a core's work on a CPU, of the clock elsewhere.

    Arguments:
        modules: what is trained, by the names their weights get in the checkpoint.
        loss: from the batch's number to a loss and whatever else is worth printing; draws its own batch.
        file: the checkpoint; training goes on from it when it exists.
        minutes: the budget over all runs.
        floor: the share of `lr` that is left at the end.
        fall: the last share of the time, 0 … 1, in which the learning rate falls.
        until: stop after so many of the minutes; the schedule stays that of all of them.
        orthogonal: train matrices and convolutions with Muon (Jordan et al., 2024), the rest with AdamW.

    Returns:
        minutes, steps and samples spent so far.
    """
    parameters = _trained(modules)
    optimizers = Optimizers(parameters, lr, weight_decay, orthogonal)
    spent = {"minutes": 0.0, "steps": 0, "samples": 0}
    if file.exists():
        spent = _restore(file, parameters, optimizers, averaged)
    now = time.thread_time if next(iter(parameters.values())).device.type == "cpu" else time.monotonic
    saved = shown = begun = now()
    before, step, sums, count = spent["minutes"], int(spent["steps"]), {}, 0
    crew, elapsed = Crew(parameters.values()), before
    while elapsed < min(minutes, until):
        terms = loss(step * crew.size + crew.rank)
        terms["loss"].backward()
        elapsed = crew.agree(before + (now() - begun) / 60)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizers.step(_rate(lr, step, elapsed / minutes, floor, fall))
        step, count = step + 1, count + 1
        if averaged:
            averaged.update(step)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        at = now()
        spent = {"minutes": elapsed, "steps": step, "samples": step * batch * crew.size}
        if at - shown > 20 and crew.rank == 0:
            _show(spent, batch * crew.size * count / (at - shown), {n: v / count for n, v in sums.items()})
            shown, sums, count = at, {}, 0
        if at - saved > every and crew.rank == 0:
            _save(file, parameters, optimizers, averaged, spent)
            saved = at
    if crew.rank == 0:
        _save(file, parameters, optimizers, averaged, spent)
    return spent


def _trained(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that get gradients, by module and name."""
    named = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
    return {name: p for name, p in named.items() if p.requires_grad}


class Crew:
    """The processes that train together, each on batches of its own: as many as `torchrun` started, else this one alone."""

    def __init__(self, parameters: Iterable[nn.Parameter] = ()) -> None:
        self.parameters = list(parameters)
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")

    def agree(self, minutes: float) -> float:
        """Give all processes the mean of their gradients; returns the mean of their minutes, so that all end at one step."""
        if self.size == 1:
            return minutes
        grads = [p.grad for p in self.parameters]
        flat = torch.cat([*(g.flatten() for g in grads), grads[0].new_tensor([minutes])])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, mean in zip(grads, flat[:-1].split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))
        return float(flat[-1])


def _show(spent: dict[str, float], speed: float, means: dict[str, float]) -> None:
    """One line on stderr: how far the run is, samples a second, and the means of the last steps."""
    terms = "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
    line = f"{spent['minutes']:7.1f} min  step {spent['steps']}  {speed:.0f}/s  {terms}"
    print(line, file=sys.stderr, flush=True)


def _rate(lr: float, step: int, share: float, floor: float, fall: float) -> float:
    """The learning rate after this share (0 … 1) of the time: 100 steps of warm-up, then `lr`, and over the last `fall` of the time
    a cosine down to `floor · lr`."""
    fallen = max(0.0, (share - 1) / fall + 1)
    return lr * min(1, (step + 1) / 100) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fallen)))


class Optimizers:
    """AdamW, and Muon for the matrices if so wished, with AdamW for the rest at a third of its rate; both with the state of each
    parameter under its name."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], lr: float, weight_decay: float, orthogonal: bool
    ) -> None:
        matrices = {
            n for n, p in parameters.items() if orthogonal and p.ndim > 1 and min(p.flatten(1).shape) > 16
        }
        self.parameters = parameters
        # Muon takes matrices only: a convolution is stepped as the matrix it is, outputs × all else
        self.stepped = {
            n: nn.Parameter(p.data.flatten(1)) if n in matrices else p for n, p in parameters.items()
        }
        rest = [p for n, p in self.stepped.items() if n not in matrices]
        self.shares = (1 / 3 if matrices else 1.0, 1.0)  # of the learning rate
        self.all = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)]
        if matrices:
            of_matrix = [self.stepped[n] for n in parameters if n in matrices]
            self.all.append(Muon(of_matrix, lr, weight_decay))

    def step(self, lr: float) -> None:
        """Step all parameters by their gradients, and forget these."""
        for name, p in self.parameters.items():
            if self.stepped[name] is not p:
                self.stepped[name].grad = p.grad.flatten(1)
        for optimizer, share in zip(self.all, self.shares, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = share * lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for p in self.parameters.values():
            p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Tensors by "key.parameter"."""
        kept = {p: state for optimizer in self.all for p, state in optimizer.state.items()}
        return {
            f"{k}.{n}": t
            for n, p in self.stepped.items()
            for k, t in kept.get(p, {}).items()
            if isinstance(t, Tensor)
        }

    def restore(self, keys: set[str], tensor: Callable[[str], Tensor]) -> None:
        """Take back what `state` gave, as far as it fits these optimizers."""
        for optimizer, names in zip(
            self.all, (("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)), strict=False
        ):
            ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, p in self.stepped.items():
                if id(p) in ours and all(f"{k}.{name}" in keys for k in names):
                    optimizer.state[p] = {k: tensor(f"{k}.{name}").to(p) for k in names}


def _save(
    file: Path,
    parameters: dict[str, nn.Parameter],
    optimizers: Optimizers,
    averaged: Averaged | None,
    spent: dict,
) -> None:
    tensors = {f"weights.{n}": p.detach() for n, p in parameters.items()} | optimizers.state()
    if averaged:
        tensors |= {f"averaged.{n}": w for n, w in averaged.weights.items()}
        spent = spent | {"updates": averaged.updates}
    beside = file.with_suffix(".part")
    save_file({n: t.contiguous() for n, t in tensors.items()}, beside, metadata={"spent": json.dumps(spent)})
    beside.replace(file)


def _restore(
    file: Path, parameters: dict[str, nn.Parameter], optimizers: Optimizers, averaged: Averaged | None
) -> dict:
    with safe_open(file, "pt") as saved, torch.no_grad():
        for name, p in parameters.items():
            p.copy_(saved.get_tensor(f"weights.{name}"))
        optimizers.restore(set(saved.keys()), saved.get_tensor)
        spent = json.loads(saved.metadata()["spent"])
        if averaged and "updates" in spent:
            averaged.updates = spent["updates"]
            for name, weight in averaged.weights.items():
                weight.copy_(saved.get_tensor(f"averaged.{name}"))
    return spent
