"""Random subsets: drawn as they say, weakened one by one, agreement as two regressions find it."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tiny_sd
from headwise.benchmarks.attribution.partial_correlation import (
    ceiling_of,
    partial_correlation,
    reliability_of,
    split_half,
)
from headwise.benchmarks.attribution.subset_losses import SubsetLosses, random_subsets, ridge_values
from headwise.benchmarks.attribution.subsets import benchmark_subsets, measure_subsets
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.benchmarks.results import kind_of
from headwise.errors import HeadwiseError, RunMismatch, UnreadableFile
from headwise.intervals import Interval
from headwise.measuring.merge import merge
from headwise.model.attention import hooked
from headwise.model.generate import latents_for
from headwise.model.heads import HeadMap
from headwise.runs.scores import Scores
from headwise.runs.shards import Shard
from headwise.steering.steer import weaken
from helpers import ROOT
from test_workers import Here

PROMPTS = [EvalPrompt("a red dog", ("red",)), EvalPrompt("a vase", ("vase",)), EvalPrompt("a cat", ("cat",))]
FAST = {"count": 7, "num_inference_steps": 2, "batch_size": 6, "progress": False}


def mean_of_pixels(pictures, prompts):
    return np.array([np.asarray(picture).mean() / 255 for picture in pictures])


def run(pipe, **options):
    return measure_subsets(pipe, PROMPTS, mean_of_pixels, **FAST | options)


def drawn(seed, subsets=120, heads=40, prompts=4, noise=1.0):
    """Planted values of heads, and losses that are their sums and noise."""
    generator = np.random.default_rng(seed)
    values, chosen = 1 + generator.normal(size=heads), random_subsets(heads, subsets, seed)
    loss = (chosen @ values)[:, None] + noise * generator.normal(size=(subsets, prompts))
    return values, SubsetLosses(chosen, loss, np.ones(prompts))


def naive(a, b, size, degree=1, given=None):
    """The correlation of the residuals of two regressions."""
    powers = np.stack([np.asarray(size, float) ** power for power in range(degree + 1)], 1)
    powers = powers if given is None else np.c_[powers, given]
    residuals = [each - powers @ np.linalg.lstsq(powers, each, rcond=None)[0] for each in (a, b)]
    return np.corrcoef(*residuals)[0, 1]


@given(st.integers(0, 99), st.integers(0, 30), st.integers(1, 300))
def test_the_first_of_many_subsets_are_those_of_few(seed, count, all_heads):
    few, many = random_subsets(all_heads, count, seed), random_subsets(all_heads, 30, seed)
    assert np.array_equal(few, many[:count])
    sizes = many.sum(1)
    assert sizes.min() >= max(1, round(0.05 * all_heads)) and sizes.max() <= max(1, round(0.5 * all_heads))


def test_every_doubling_of_the_size_is_equally_frequent_and_so_is_every_head():
    subsets = random_subsets(1000, 4000)
    octaves = np.log2(subsets.sum(1) / 50)
    assert [np.mean((o <= octaves) & (octaves < o + 1)) for o in range(3)] == pytest.approx(
        [0.301] * 3, abs=0.03
    )
    shares = subsets.mean(0)
    assert shares.std() == pytest.approx(np.sqrt(np.mean(shares) * (1 - np.mean(shares)) / 4000), rel=0.1)
    assert (random_subsets(128, 9, 0) != random_subsets(128, 9, 1)).any()


@given(st.integers(0, 999), st.integers(1, 3), st.integers(0, 2))
def test_the_partial_correlation_is_that_of_the_residuals_of_two_regressions(seed, degree, columns):
    values, losses = drawn(seed, subsets=40)
    generator = np.random.default_rng(seed)
    predicted = losses.subsets @ (values + generator.normal(size=len(values)))
    known = (losses.sizes, degree, generator.normal(size=(40, columns)) if columns else None)
    agreement = partial_correlation(1e6 * predicted + 3, losses.mean, *known)
    assert agreement.value == pytest.approx(naive(predicted, losses.mean, *known), abs=1e-9)
    assert -1 <= agreement.low <= agreement.high <= 1 and agreement.n == 40


def test_heads_that_are_all_alike_agree_with_nothing():
    _, losses = drawn(0)
    assert losses.agreement(np.full(40, 3.7)) == (0, 0, 0)
    assert partial_correlation(losses.mean, losses.sizes * 0.2, losses.sizes).value == 0
    same_size = np.full(len(losses.mean), 8)
    plain = np.corrcoef(losses.mean, losses.loss[:, 0])[0, 1]
    assert partial_correlation(losses.loss[:, 0], losses.mean, same_size).value == pytest.approx(plain)


def test_the_true_values_agree_and_their_negatives_disagree():
    values, losses = drawn(0, noise=0.01)
    assert losses.agreement(values).value > 0.99
    assert losses.agreement(-values).value == pytest.approx(-losses.agreement(values).value)


def test_what_is_curved_in_the_size_is_left_by_a_first_power_and_not_by_more():
    values, losses = drawn(1, noise=0.01)
    curved = losses.mean - 0.3 * losses.sizes**2
    assert partial_correlation(losses.subsets @ values, curved, losses.sizes, 2).value > 0.99
    assert abs(partial_correlation(losses.subsets @ values, curved, losses.sizes, 1).value) < 0.5


@pytest.mark.parametrize("prompts", [2, 3, 4])
def test_split_half_is_the_mean_over_all_halvings(prompts):
    _, losses = drawn(2, prompts=prompts, noise=5.0)
    halvings = [
        naive(losses.loss[:, half].mean(1), np.delete(losses.loss, half, 1).mean(1), losses.sizes)
        for half in map(list, combinations(range(prompts), prompts // 2))
    ]
    assert split_half(losses.loss, losses.sizes).value == pytest.approx(np.mean(halvings), abs=1e-9)
    assert losses.split_half() == split_half(losses.loss, losses.sizes)


def test_what_others_lose_too_is_not_the_concepts_alone():
    values, losses = drawn(9, noise=0.5)
    others = losses.subsets @ values
    assert losses.split_half().value > 0.9
    assert abs(split_half(losses.loss, losses.sizes, given=others[:, None]).value) < 0.2


def test_split_half_of_many_prompts_and_of_one():
    _, losses = drawn(3, prompts=12, noise=3.0)
    one = split_half(losses.loss[:, :1], losses.sizes)
    assert np.isnan(one.value) and np.isnan(one.low)
    assert 0 < losses.split_half().value < 1


def test_the_ceiling_is_what_the_true_values_reach():
    """Many subsets, so that both are known well."""
    values, losses = drawn(4, subsets=4000, noise=6.0)
    ceiling = ceiling_of(losses.split_half())
    assert ceiling.value == pytest.approx(losses.agreement(values).value, abs=0.03) and ceiling.value < 0.9


def test_reliability_and_ceiling_of_known_halves():
    assert reliability_of(Interval(0.5, 0.0, 1.0, 9)) == pytest.approx((2 / 3, 0, 1))
    assert ceiling_of(Interval(0.5, -0.2, 1.0)) == pytest.approx((np.sqrt(2 / 3), 0, 1))
    assert all(map(np.isnan, ceiling_of(Interval(None, None, None))))


def test_ridge_recovers_planted_values():
    values, losses = drawn(5, subsets=400, noise=0.05)
    assert ridge_values(losses.subsets, losses.mean) == pytest.approx(values, abs=0.05)
    assert partial_correlation(losses.ridge(), losses.mean, losses.sizes).value > 0.99


def test_ridge_of_noise_predicts_nothing_and_gives_heads_about_their_common_value():
    errors, agreements = [], []
    for seed in range(5):
        subsets = random_subsets(40, 200, seed)
        loss = 0.5 * subsets.sum(1) + np.random.default_rng(seed).normal(size=200)
        least_squares = np.linalg.lstsq(np.c_[np.ones(200), subsets], loss, rcond=None)[0][1:]
        errors.append([np.std(values - 0.5) for values in (ridge_values(subsets, loss), least_squares)])
        losses = SubsetLosses(subsets, loss[:, None], np.zeros(1))
        agreements.append(partial_correlation(losses.ridge(), losses.mean, losses.sizes).value)
    ridge, least_squares = np.mean(errors, 0)
    assert ridge < 0.6 * least_squares and abs(np.mean(agreements)) < 0.1


def test_the_penalty_of_ridge_is_that_of_leaving_out_one_subset(monkeypatch):
    """The formula of the error against doing so, with the penalty that both choose."""
    _, losses = drawn(6, subsets=24, heads=10, noise=4.0)
    x, y = losses.subsets.astype(float), losses.mean
    z = np.stack([np.ones(len(x)), x.sum(1)], 1)

    def fit(x, z, y, penalty):
        both = np.concatenate([z, x], 1)
        squares = both.T @ both + np.diag([0.0] * 2 + [penalty] * x.shape[1])
        return np.linalg.lstsq(squares, both.T @ y, rcond=None)[0]

    left = x - z @ np.linalg.lstsq(z, x, rcond=None)[0]
    scale = np.mean(np.linalg.svd(left, compute_uv=False) ** 2)
    errors, penalties = [], np.array([0.01, 0.3, 3.0, 100.0])
    for penalty in penalties * scale:
        each = []
        for i in range(len(y)):
            others = np.arange(len(y)) != i
            solution = fit(x[others], z[others], y[others], penalty)
            each.append(y[i] - np.concatenate([z[i], x[i]]) @ solution)
        errors.append(np.mean(np.square(each)))
    best = fit(x, z, y, penalties[np.argmin(errors)] * scale)
    monkeypatch.setattr("headwise.benchmarks.attribution.subset_losses.PENALTIES", penalties)
    assert ridge_values(losses.subsets, y) == pytest.approx(best[2:] + best[1], abs=1e-8)


def test_no_subset_is_predicted_by_itself():
    _, losses = drawn(7, subsets=30)
    before = losses.ridge()
    losses.loss[6] += 100
    assert losses.ridge()[6] == before[6] and losses.ridge()[5] != before[5]


def test_few_subsets_are_refused():
    values, losses = drawn(7, subsets=5)
    for score in (losses.ridge, losses.split_half, lambda: losses.agreement(values)):
        with pytest.raises(HeadwiseError, match="losses of 5 subsets; expected 6 or more"):
            score()


def test_every_loss_is_that_of_its_picture_alone():
    pipe = tiny_sd()
    losses, head_map = run(pipe), HeadMap.of(pipe)
    assert np.array_equal(losses.subsets, random_subsets(head_map.all_heads, 7))
    for subset, prompt in ((0, 0), (3, 1), (6, 2)):
        scores = []
        for heads in (np.zeros(0, int), np.flatnonzero(losses.subsets[subset])):
            with hooked(pipe, weaken(head_map, heads)):
                noise = latents_for(pipe, 10, prompt)[None]
                picture = pipe(PROMPTS[prompt].prompt, latents=noise, num_inference_steps=2).images
            scores.append(mean_of_pixels(picture, PROMPTS)[0])
        assert losses.plain[prompt] == pytest.approx(scores[0], abs=2e-3)
        assert losses.loss[subset, prompt] == pytest.approx(scores[0] - scores[1], abs=4e-3)
    assert losses.loss.any()


def test_a_run_goes_on_where_it_ended_and_may_do_a_part_of_the_subsets(tmp_path):
    pipe, calls = tiny_sd(), []
    whole = run(pipe)

    def stops(pictures, prompts):
        calls.append(len(pictures))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mean_of_pixels(pictures, prompts)

    stops.__name__ = mean_of_pixels.__name__
    with pytest.raises(KeyboardInterrupt):
        measure_subsets(pipe, PROMPTS, stops, out=tmp_path, checkpoint_every=0, **FAST)
    part = run(pipe, out=tmp_path, numbers=range(4))
    assert np.array_equal(part.loss, whole.loss[:3]) and np.array_equal(part.subsets, whole.subsets[:3])
    assert np.array_equal(run(pipe, out=tmp_path).loss, whole.loss) and kind_of(tmp_path) == "subsets"
    with pytest.raises(RunMismatch, match="subset_seed is 0 there and 1 here"):
        run(pipe, out=tmp_path, subset_seed=1)


def test_there_are_no_losses_before_the_plain_pictures(tmp_path):
    pipe = tiny_sd()
    assert run(pipe, out=tmp_path, numbers=range(3, 5)).loss.shape == (0, 3)
    there = run(pipe, out=tmp_path, numbers=range(1))
    assert np.array_equal(there.subsets, random_subsets(HeadMap.of(pipe).all_heads, 7)[2:4])


def test_shards_are_merged_into_one_run(tmp_path):
    prompts = {"Color": PROMPTS, "Time of Day": PROMPTS[1:]}
    one = benchmark_subsets(tiny_sd(), prompts, mean_of_pixels, tmp_path / "one", **FAST)
    for shard in (Shard(0, 2), Shard(1, 2)):
        folder = shard.folder(tmp_path / "many")
        benchmark_subsets(tiny_sd(), prompts, mean_of_pixels, folder, shard, **FAST | {"batch_size": 3})
    merge([tmp_path / "many"], tmp_path / "many")
    for folder, losses in zip(("color", "time-of-day"), one.values(), strict=True):
        merged = SubsetLosses.of(Scores.load(tmp_path / "many" / folder / "scores.safetensors"))
        assert merged.loss == pytest.approx(losses.loss, abs=4e-3) and merged.settings == losses.settings
        assert np.array_equal(merged.subsets, losses.subsets)


def test_workers_share_the_subsets():
    one, many = run(tiny_sd()), run(Here(tiny_sd, deaths=[True, False]))
    assert many.loss == pytest.approx(one.loss, abs=4e-3) and many.settings == one.settings


def test_losses_are_read_as_they_were_written(tmp_path):
    _, losses = drawn(8, subsets=9, heads=13, prompts=2)
    losses.save(tmp_path / "losses.json")
    again = SubsetLosses.load(tmp_path / "losses.json")
    assert np.array_equal(again.subsets, losses.subsets)
    assert np.array_equal(again.loss, losses.loss.round(5)) and np.array_equal(again.plain, losses.plain)
    assert again.as_json() == losses.as_json() == json.loads(json.dumps(losses.as_json()))
    none = SubsetLosses(losses.subsets[:0], losses.loss[:0], losses.plain)
    assert SubsetLosses.from_json(none.as_json()).loss.shape == (0, 2)


def test_the_results_that_are_kept_are_read_and_say_what_their_losses_say():
    (file,) = (ROOT / "benchmarks" / "results").glob("emoji-subsets-*.json")
    content = json.loads(file.read_text())
    assert len(content["concepts"]) == 29
    for name in ("Color", "Plants"):
        losses = SubsetLosses.from_json(content | content["concepts"][name])
        assert np.array_equal(losses.subsets, random_subsets(96, len(losses.subsets)))
        half = content["concepts"][name]["degree1"]["split_half"][0]
        assert losses.split_half().value == pytest.approx(half, abs=1e-3)


@pytest.mark.parametrize(
    "content", ["{}", "[]", "not JSON", '{"all_heads": 9, "subsets": ["ff"], "plain": [1]}']
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "losses.json").write_text(content)
    with pytest.raises(UnreadableFile, match=r"Give a file that `SubsetLosses.save` wrote"):
        SubsetLosses.load(tmp_path / "losses.json")


def test_nothing_to_weaken_is_refused():
    with pytest.raises(HeadwiseError, match="0 prompts and 200 subsets were given"):
        measure_subsets(tiny_sd(), [], mean_of_pixels)
    with pytest.raises(HeadwiseError, match="3 prompts and 0 subsets were given"):
        run(tiny_sd(), count=0)
