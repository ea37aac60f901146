"""What the built-in models are trained with (training/): the optimiser, and which layers hear."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
muon = pytest.importorskip("muon", reason="training/ is in the repository only")
hearing = pytest.importorskip("hearing", reason="training/ is in the repository only")


def by_singular_values(matrix):
    """What `orthogonalised` says it does, on singular values, in float64."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(muon.ROUNDS):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vh


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_a_gradient_keeps_its_directions_and_gets_singular_values_near_one(rows, columns, seed):
    gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    torch.testing.assert_close(muon.orthogonalised(gradient), by_singular_values(gradient))
    in_single = muon.orthogonalised(gradient.float())
    torch.testing.assert_close(in_single.double(), by_singular_values(gradient), rtol=1e-3, atol=1e-3)


def test_steps_are_those_of_torch_within_its_rounding():
    start = torch.randn(24, 60, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    steppers = (
        muon.Muon([ours], lr=0.1, weight_decay=0.01),
        torch.optim.Muon(
            [theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", ns_steps=muon.ROUNDS
        ),
    )
    for seed in range(3):
        gradient = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
        for p, stepper in zip((ours, theirs), steppers, strict=True):
            p.grad = gradient.clone()
            stepper.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # bfloat16 has three digits


def test_the_first_layers_hear_more_often_than_the_last():
    """A share hears everything; of the rest each layer hears where the drawn number of first layers reaches it."""
    chance, layers, heads = torch.Generator().manual_seed(0), 12, 8
    hears = hearing.draw_hearing("first 0.8", 20_000, torch.ones(layers, dtype=torch.bool), heads, chance)
    assert hears.shape == (20_000, layers, heads)
    everything = hears.all(2).all(1)
    assert abs(float(everything.float().mean()) - 0.2) < 0.02
    rate = hears[~everything].float().mean((0, 2))
    assert (rate.diff() < 0).all()
    assert torch.allclose(rate / rate[0], torch.linspace(1, 1 / layers, layers), atol=0.04)
