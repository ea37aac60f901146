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


def test_layers_that_hear_in_a_window_are_neighbours_and_the_middle_hears_most():
    """A share hears everything, and a window of all layers is everything; others are at every place alike."""
    chance, layers, heads = torch.Generator().manual_seed(0), 12, 8
    hears = hearing.draw_hearing("window 0.8", 20_000, torch.ones(layers, dtype=torch.bool), heads, chance)
    assert hears.shape == (20_000, layers, heads)
    everything = hears.all(2).all(1)
    assert abs(float(everything.float().mean()) - (0.2 + 0.8 / layers)) < 0.02
    some = hears[~everything].any(2)
    places = [row.nonzero().flatten() for row in some]
    gaps = sum(int(p[-1] - p[0] + 1 - len(p)) > 0 for p in places if len(p))
    assert gaps / len(places) < 0.06, "a layer in the window of which no head hears"
    rate = some.float().mean(0)
    assert torch.allclose(rate, rate.flip(0), atol=0.02) and (rate[:6].diff() > 0).all()
