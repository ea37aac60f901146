"""Against a planted truth: only known heads can read a concept's words, and the effect finds them."""

import numpy as np
import pytest

from headwise.measuring.effect import EffectProbe
from headwise.model.attention import hooked
from headwise.model.generate import generate
from headwise.model.row_count import count_rows
from headwise.steering.steer import Steer
from planted import PROMPTS, auroc, planted_sd

FLOAT_ERROR = 1e-12


def draw(pipe, prompts, steps=2):
    options = {"num_inference_steps": steps, "output_type": "latent"}
    return generate(pipe, list(prompts), 0, range(len(prompts)), **options)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("concept", PROMPTS)
def test_a_head_that_never_hears_the_word_has_no_effect_and_the_known_heads_have_all_of_it(concept, seed):
    planted, (prompts, words) = planted_sd(seed), PROMPTS[concept]
    probe = EffectProbe(words, points=3)
    with hooked(planted.pipe, probe):
        draw(planted.pipe, prompts)
    shares, known = probe.take().shares.reshape(-1), planted.known(concept)
    assert np.abs(shares[~known]).max() < FLOAT_ERROR < np.abs(shares[known]).min()
    assert auroc(np.abs(shares), known) == 1 and shares.sum() == pytest.approx(1, rel=0.05)


def test_weakening_the_word_in_other_heads_changes_nothing_and_in_a_known_one_does():
    planted, ((prompt, *_), (word, *_)) = planted_sd(), PROMPTS["Animals"]
    known, plain = planted.known("Animals"), draw(planted.pipe, [prompt])
    for chosen, same in ((~known, True), (known, False)):
        with hooked(planted.pipe, Steer(np.where(chosen, -2.0, 1.0)[None], word)):
            difference = (draw(planted.pipe, [prompt]) - plain).abs().max()
        assert (difference < FLOAT_ERROR) == same


def test_the_area_under_the_curve_is_1_for_the_truth_half_for_ties_and_0_for_its_reverse():
    known = np.array([True, False, True, False])
    values = np.array([3.0, 1.0, 2.0, 0.0])
    assert auroc(values, known) == 1
    assert auroc(-values, known) == 0
    assert auroc(np.ones(4), known) == 0.5


def test_rows_are_counted_where_they_pass_with_those_that_hooks_make_beside_the_call():
    planted = planted_sd()
    prompts, words = PROMPTS["Animals"]
    with count_rows(planted.pipe) as plain:
        draw(planted.pipe, prompts)
    assert (plain.forward, plain.backward) == (2 * 2 * 2, 0)  # images, steps, guidance
    probe = EffectProbe(words, points=3)
    with count_rows(planted.pipe) as rows, hooked(planted.pipe, probe):
        draw(planted.pipe, prompts)
    assert (rows.forward, rows.backward) == (8 + 2 * 2 * (2 + 3), 2 * 2 * 3)
    with count_rows(planted.pipe) as none:
        pass
    draw(planted.pipe, prompts)
    assert none.forward == 0
