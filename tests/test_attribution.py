"""Estimators of what heads do: naive twins of each, what each costs, and how they are scored."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from headwise.benchmarks.attribution.benchmark import benchmark_attribution
from headwise.benchmarks.attribution.estimators import (
    effect,
    mean_attention,
    random_values,
    value_norm,
    votes,
    word_removed,
)
from headwise.benchmarks.attribution.gates import gates
from headwise.benchmarks.attribution.partial_correlation import partial_correlation
from headwise.benchmarks.attribution.scores import RIDGE, permuted_scores
from headwise.benchmarks.attribution.subset_losses import SubsetLosses, random_subsets
from headwise.benchmarks.attribution.tuning import (
    Sampling,
    Truth,
    Tuning,
    read_truth,
    reporting_of,
    tuning_of,
)
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.errors import HeadwiseError, RunMismatch, UnreadableFile
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.effect import EffectProbe
from headwise.measuring.word_prompts import replaced
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.pipelines import load_pipeline
from headwise.model.row_count import count_rows
from headwise.report.measurement import report
from planted import CONCEPTS, PROMPTS, auroc, planted_sd

SAMPLING = Sampling(num_inference_steps=2, guidance_scale=7.5, batch_size=4)
TUNING = {name: Tuning(name, *pair) for name, pair in PROMPTS.items()}
TOKENS = {"Animals": (5, 3), "Color": (2, 4)}  # of each prompt's word; the start token is 0


@pytest.fixture(scope="module")
def planted():
    return planted_sd()


class Explicit(Hook):
    """The attention map of every head, by its formula, and what is written of some tokens, image by image."""

    def __init__(self, tokens):
        self.tokens, self.attention, self.norms = tokens, [], []

    def __call__(self, attend, site, query, key, value):
        layer = site.module.to_out[0].weight  # channels, heads × dim
        for image, row in enumerate(range(len(query))[site.conditional]):
            token = self.tokens[image]
            for head in range(site.heads):
                scores = query[row, head] @ key[row, head].T / query.shape[-1] ** 0.5
                weights = torch.softmax(scores, -1)[:, token]
                columns = layer[:, head * query.shape[-1] : (head + 1) * query.shape[-1]]
                written = weights[:, None] * (columns @ value[row, head, token])[None]  # pixels, channels
                self.attention.append(float(weights.mean()))
                self.norms.append(float(written.square().sum(1).mean().sqrt()))
        return attend(query, key, value)

    def of_heads(self, numbers, head_map, images=2, steps=2):
        per_layer, values = iter(numbers), np.zeros((steps, images, head_map.all_heads))
        for step in range(steps):
            for start, stop in head_map.slices:
                for image in range(images):
                    values[step, image, start:stop] = [next(per_layer) for _ in range(start, stop)]
        return values.mean((0, 1))


def generated(pipe, hook, prompts, keys):
    with hooked(pipe, hook):
        options = {"num_inference_steps": 2, "guidance_scale": 7.5, "output_type": "latent"}
        return generate_keys(pipe, prompts, keys, **options)


@pytest.mark.parametrize("concept", PROMPTS)
def test_mean_attention_and_value_norm_are_those_of_the_explicit_maps(planted, concept):
    tuning, head_map = TUNING[concept], HeadMap.of(planted.pipe)
    explicit = Explicit(TOKENS[concept])
    generated(planted.pipe, explicit, tuning.prompts, [(3, 0), (3, 1)])
    of_heads = explicit.of_heads(explicit.attention, head_map)
    assert np.allclose(mean_attention(planted.pipe, tuning, 3, sampling=SAMPLING), of_heads, rtol=1e-9)
    of_heads = explicit.of_heads(explicit.norms, head_map)
    assert np.allclose(value_norm(planted.pipe, tuning, 3, sampling=SAMPLING), of_heads, atol=1e-12)


def test_a_removed_word_changes_each_head_as_two_prompts_with_the_same_latents_do(planted):
    """Against the bare denoiser, at the latents that the prompt with the word has at each call."""
    pipe, tuning = planted.pipe, Tuning("Animals", ("a photo of a dog",), ("dog",))
    head_map, seen, written = HeadMap.of(pipe), [], []

    def inputs(module, inputs, options):
        seen.append((inputs[0][-1:], inputs[1]))

    handle = pipe.unet.register_forward_pre_hook(inputs, with_kwargs=True)
    generated(pipe, lambda attend, site, *of_layer: attend(*of_layer), tuning.prompts, [(3, 0)])
    handle.remove()

    def record(attend, site, query, key, value):
        output = attend(query, key, value)
        columns = site.module.to_out[0].weight.split(output.shape[-1], 1)
        written.extend(of_head @ c.T for of_head, c in zip(output[0], columns, strict=True))
        return output

    texts = [pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a photo of a dog", "a photo of a")]
    with hooked(pipe.unet, record), torch.no_grad():
        for latents, timestep in seen:
            for text in texts:
                pipe.unet(latents, timestep, encoder_hidden_states=text)
    calls = [written[start :: head_map.all_heads] for start in range(head_map.all_heads)]
    norms = [
        np.mean([float((a - b).square().sum(1).mean().sqrt()) for a, b in zip(c[::2], c[1::2], strict=True)])
        for c in calls
    ]
    assert min(norms) > 0
    assert np.allclose(word_removed(pipe, tuning, 3, sampling=SAMPLING), norms, rtol=1e-9)


FINDS = {  # whatever only reads what the word writes finds the known heads, by construction
    "value norm": value_norm,
    "effect": effect,
    "effect from 1 to -2": partial(effect, path=(1.0, -2.0), points=3),
}


@pytest.mark.parametrize("concept", PROMPTS)
@pytest.mark.parametrize("name", FINDS)
def test_what_a_word_writes_finds_the_heads_that_can_read_it(planted, name, concept):
    values = FINDS[name](planted.pipe, TUNING[concept], 0, sampling=SAMPLING)
    known = planted.known(concept)
    assert np.abs(values[~known]).max() < 1e-12 < np.abs(values[known]).min()
    assert auroc(np.abs(values), known) == 1


def test_what_a_word_attends_to_does_not_know_which_heads_can_read_it():
    """In the first layer, whose queries have read no text, attention is the same wherever heads are blind."""
    first, second = planted_sd(0), planted_sd(0, known=28)
    one = mean_attention(first.pipe, TUNING["Animals"], 0, sampling=Sampling(1, 1.0, 4))
    other = mean_attention(second.pipe, TUNING["Animals"], 0, sampling=Sampling(1, 1.0, 4))
    assert np.allclose(one[:4], other[:4], rtol=1e-12) and not np.allclose(one[4:], other[4:], rtol=1e-3)


def test_gates_of_heads_that_the_word_does_not_reach_shut(planted):
    tuning, known = TUNING["Color"], planted.known("Color")
    values = gates(planted.pipe, tuning, 0, sampling=SAMPLING, rounds=20)
    assert ((values > 0) & (values < 1)).all()
    assert values[known].max() > values[~known].max() and values[~known].max() < 0.1


def test_effect_is_the_mean_share_of_calls_and_pooled_that_of_all_of_them_together(planted):
    tuning = TUNING["Color"]
    probe = EffectProbe(tuning.words)
    generated(planted.pipe, probe, tuning.prompts, [(3, 0), (3, 1)])
    through, whole = probe.take()
    shares = (through[:, :, 0] / whole).mean((0, 1))
    assert np.allclose(effect(planted.pipe, tuning, 3, sampling=SAMPLING), shares, atol=1e-12)
    together = through.sum((0, 1, 2)) / whole.sum()
    pooled = effect(planted.pipe, tuning, 3, pooled=True, sampling=SAMPLING)
    assert np.allclose(pooled, together, atol=1e-12) and not np.allclose(shares, together, atol=1e-6)


def test_against_a_sibling_effect_finds_the_heads_that_tell_words_apart(planted):
    known = planted.known("Animals")
    values = effect(planted.pipe, TUNING["Animals"], 0, against="sibling", points=3, sampling=SAMPLING)
    assert values.sum() == pytest.approx(1, rel=0.1)
    assert auroc(np.abs(values), known) > 0.5


COSTS = {  # rows, of which with a gradient: two images, two steps, with guidance
    "random": (random_values, 0, 0),
    "mean attention": (mean_attention, 8, 0),
    "value norm": (value_norm, 8, 0),
    "word removed": (word_removed, 16 + 8, 0),
    "effect": (effect, 8 + 4 * 3, 4),
    "effect at one call": (partial(effect, calls=1), 8 + 2 * 3, 2),
}


@pytest.mark.parametrize("name", COSTS)
def test_the_rows_of_an_estimator_are_those_that_pass_the_denoiser(planted, name):
    estimator, forward, backward = COSTS[name]
    options = {} if estimator is random_values else {"sampling": SAMPLING}
    with count_rows(planted.pipe) as rows:
        values = estimator(planted.pipe, TUNING["Color"], 0, **options)
    assert values.shape == (28,) and (rows.forward, rows.backward) == (forward, backward)


def test_votes_are_those_of_a_measurement(planted):
    from headwise.measuring.measure import measure

    concepts = ConceptSet(CONCEPTS)
    options = {"pictures": 2, "batch_size": 2}
    values = votes(planted.pipe, TUNING["Color"], 4, concepts=concepts, **options)
    relevance = measure(planted.pipe, concepts, beside=None, seed=4, progress=False, **options)
    assert np.array_equal(values, relevance["Color"])


@pytest.mark.parametrize(
    ("prompt", "word", "by", "expected"),
    [
        ("a photo of a dog", "dog", "elephant", "a photo of an elephant"),
        ("an apple, red", "apple", "pear", "a pear, red"),
        ("a dog", "dog", "", "a"),
        ("a red dog", "red", "", "a dog"),
        ("dog and dog", "dog", "cat", "cat and cat"),
        ("a photo of socks", "socks", "orange", "a photo of orange"),
    ],
)
def test_a_word_is_replaced_with_its_article(prompt, word, by, expected):
    assert replaced(prompt, word, by) == expected


def test_a_concept_of_one_word_has_no_siblings():
    with pytest.raises(HeadwiseError, match="All tuning prompts of 'Color' have the word 'red'"):
        _ = TUNING["Color"].siblings
    assert TUNING["Animals"].siblings == (("a photo of a cat", "cat"), ("a red dog", "dog"))


def losses_of(planted, concept, prompts=("a photo of a cat",), count=24):
    """Losses that only the heads that can read the concept cause, as if they were measured."""
    subsets = random_subsets(HeadMap.of(planted.pipe).all_heads, count)
    loss = (subsets & planted.known(concept)).sum(1, keepdims=True) * np.ones(len(prompts))
    return Truth(SubsetLosses(subsets, loss, np.ones(len(prompts))), prompts)


def oracle(planted):
    return lambda pipe, tuning, seed: planted.known(tuning.concept).astype(float)


def test_an_estimator_from_outside_is_one_function_and_the_truth_scores_1(planted, tmp_path):
    truth = {name: losses_of(planted, name) for name in CONCEPTS}
    tuning = {name: Tuning(name, *PROMPTS[name]) for name in CONCEPTS}
    calls = []

    def mine(pipe, tuning, seed):
        calls.append(tuning.concept)
        return value_norm(pipe, tuning, seed, sampling=SAMPLING)

    estimators = {"oracle": oracle(planted), "random": random_values, "mine": mine}
    result = benchmark_attribution(planted.pipe, truth, tuning, estimators, tmp_path, progress=False)
    assert result.estimators == (*estimators, RIDGE)
    assert result.score("oracle").value == pytest.approx(1) == result.score("oracle", "Color").value
    assert abs(result.score("random").value) < result.score("mine").value <= 1
    losses, values = result.losses["Color"], result.estimates["Color"]["mine"].values
    assert result.score("mine", "Color") == losses.agreement(values)
    gain = result.score("mine", "Color", minus="random")
    assert gain.low < gain.value < gain.high
    apart = [result.score(name, "Color").value for name in ("mine", "random")]
    assert gain.value == pytest.approx(apart[0] - apart[1])
    assert result.score("mine", minus="mine") == (0, 0, 0)
    ridge = partial_correlation(losses.ridge(), losses.mean, losses.sizes)
    assert result.score(RIDGE, "Color") == ridge and ridge.low > 0
    rows = {name: result.rows(name).forward for name in ("mine", "oracle", RIDGE)}
    assert rows == {"mine": 8, "oracle": 0, RIDGE: 0}
    numbers = result.numbers()
    assert json.loads((tmp_path / "attribution.json").read_text())["estimators"] == numbers
    assert numbers["mine"]["concepts"]["Color"]["forward"] == 8 and calls == list(CONCEPTS)
    again = benchmark_attribution(planted.pipe, truth, tuning, estimators, tmp_path, progress=False)
    assert again.numbers() == numbers and calls == list(CONCEPTS), "what has rows is kept"
    assert "losses without noise" in report(tmp_path).read_text()


def test_chance_is_the_score_of_permuted_values(planted, tmp_path):
    losses, heads = losses_of(planted, "Color").losses, np.arange(28)
    values = np.random.default_rng(0).normal(size=28)
    order = np.random.default_rng(1).permutation(28)
    scores = permuted_scores(values, losses, np.stack([heads, order]))
    assert np.allclose(scores, [losses.agreement(values).value, losses.agreement(values[order]).value])
    truth, tuning = {"Color": losses_of(planted, "Color")}, {"Color": TUNING["Color"]}
    by_layer = np.concatenate([np.full(4, mean) for mean in np.random.default_rng(2).normal(size=7)])
    estimators = {"oracle": oracle(planted), "layers": lambda *task: by_layer}
    result = benchmark_attribution(planted.pipe, truth, tuning, estimators, tmp_path, progress=False)
    chance = result.chance("oracle")
    assert chance.low < 0 < chance.high < 1 and abs(chance.value) < 0.1
    assert result.chance("oracle", in_layers=True).high < result.score("oracle").value
    same = result.score("layers").value
    assert np.allclose(result.chance("layers", "Color", in_layers=True), [same] * 3)


def test_what_other_concepts_predict_is_said_beside(planted, tmp_path):
    truth = {name: losses_of(planted, name) for name in CONCEPTS}
    tuning = {name: Tuning(name, *PROMPTS[name]) for name in CONCEPTS}
    estimators = {
        "oracle": oracle(planted),
        "exchanged": lambda pipe, tuning, seed: exchanged[tuning.concept],
    }
    exchanged = {"Color": planted.known("Animals") + 0.0, "Animals": planted.known("Color") + 0.0}
    out = tmp_path / "new" / "folder"
    result = benchmark_attribution(planted.pipe, truth, tuning, estimators, out, progress=False)
    assert result.others("oracle") == result.score("exchanged")
    assert result.others("exchanged").value == pytest.approx(1)
    assert result.numbers()["oracle"]["others"] == result.others("oracle").as_json()


def test_another_seed_in_the_same_folder_is_refused(planted, tmp_path):
    truth, tuning = {"Color": losses_of(planted, "Color")}, {"Color": TUNING["Color"]}
    estimators = {"attention": lambda *task: mean_attention(*task, sampling=SAMPLING)}
    benchmark_attribution(planted.pipe, truth, tuning, estimators, tmp_path, progress=False)
    with pytest.raises(RunMismatch, match="is from a different run"):
        benchmark_attribution(planted.pipe, truth, tuning, estimators, tmp_path, seed=1, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": {}}, "The losses of subsets were not measured for 'Color'"),
        ({"prompts": ("a red car",)}, "'a red car' is both a tuning prompt of 'Color' and one of the truth"),
        ({"estimators": {"short": lambda *task: np.zeros(3)}}, r"'short' returned an array of \(3,\)"),
        ({"reporting": {"Color": []}}, "without a score"),
    ],
)
def test_comparisons_that_are_not_fair_are_refused(planted, tmp_path, change, message):
    truth = {"Color": losses_of(planted, "Color", change.get("prompts", ("a photo of a cat",)))}
    estimators = change.get("estimators", {"random": random_values})
    options = {"reporting": change.get("reporting", {}), "progress": False}
    if "reporting" in change:
        options["reporting"] = {"Color": [EvalPrompt("a dog", ("a dog",))]}
    with pytest.raises(HeadwiseError, match=message):
        benchmark_attribution(
            planted.pipe,
            change.get("truth", truth),
            {"Color": TUNING["Color"]},
            estimators,
            tmp_path,
            **options,
        )


def test_areas_are_of_the_order_of_the_values(planted, tmp_path):
    truth, tuning = {"Color": losses_of(planted, "Color")}, {"Color": TUNING["Color"]}
    reporting = {"Color": [EvalPrompt("a red vase", ("a red vase", "a vase"))] * 3}

    def score(images, prompts):
        return np.array([np.asarray(image, float).mean() for image in images])

    options = {"num_inference_steps": 1, "ks": (0, 8, 28), "guidance_scale": 1.0}
    estimators = {"oracle": oracle(planted), "reverse": lambda *task: -oracle(planted)(*task)}
    result = benchmark_attribution(
        planted.pipe, truth, tuning, estimators, tmp_path, reporting=reporting, score=score, progress=False,
        **options,
    )  # fmt: skip
    areas = result.areas["Color"]
    assert areas["oracle"].value != 0
    assert areas["oracle"].value == pytest.approx(-areas["reverse"].value, rel=0.2)
    assert "area" in result.numbers()["oracle"]["concepts"]["Color"]


CASES = """
[Color]
prompts = ["a {word} {thing}", "a photo of a {word} {thing}"]
words = ["red"]
things = ["dog", "cat", "car", "vase"]
"""


def test_the_command_compares_estimators_and_tuning_prompts_are_not_those_of_the_truth(
    run, workspace, judged
):
    (workspace / "cases.toml").write_text(CASES)
    (workspace / "prompts.txt").write_text("a red dog\na red cat\na photo\na red vase\na vase in red color\n")
    head_map = HeadMap.of(load_pipeline("tiny"))
    subsets = random_subsets(head_map.all_heads, 8)
    losses = SubsetLosses(subsets, 1.0 * subsets.sum(1)[:, None] + subsets[:, :1], np.ones(1)).as_json()
    concept = {"prompts": ["a red dog"], "plain": losses.pop("plain"), "loss": losses.pop("loss")}
    (workspace / "losses.json").write_text(json.dumps(losses | {"concepts": {"Color": concept}}))
    common = ("--truth", "losses.json", "-m", "tiny", "--prompts", "prompts.txt", "--num-inference-steps", 1)
    common += (
        "--cases",
        "cases.toml",
        "--count",
        2,
        "--areas",
        1,
        "--estimator",
        "value norm",
        "--estimator",
        "votes, measured",
    )
    code, out, err = run("benchmark", "attribution", *common, "--scorer", "emoji", "--json")
    assert code == 0, err
    numbers = json.loads(out)
    assert list(numbers["estimators"]) == ["value norm", "votes, measured", RIDGE]
    assert numbers["estimators"]["value norm"]["forward"] == 4  # two prompts, one step, with guidance
    assert numbers["ceilings"] == {"Color": [None] * 3}, "one prompt has no halves"
    assert numbers["subsets"] == 8 and "area" in numbers["estimators"]["votes, measured"]
    options = {"prompts": "prompts.txt", "count": 2}
    truth, colors = read_truth("losses.json"), ConceptSet({"Color": ["red"], "Animals": ["dog"]})
    tuning = tuning_of(load_pipeline("tiny"), colors, truth, **options)["Color"]
    assert tuning == Tuning("Color", ("a red cat", "a red vase"), ("red", "red"))
    reporting = {prompt.prompt for prompt in reporting_of("cases.toml", tuning)}
    assert len(reporting) == 6 and not reporting & set(tuning.prompts)
    code, out, err = run("benchmark", "attribution", *common[:8], "--estimator", "nonsense")
    assert code == 2 and "'nonsense' is not an estimator" in err


def test_a_file_without_losses_and_prompts_of_the_truth_alone_are_refused(planted, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UnreadableFile, match="holds no subset losses of concepts"):
        read_truth(tmp_path / "other.json")
    truth, concepts = {"Color": losses_of(planted, "Color", ("a red car",))}, ConceptSet(CONCEPTS)
    with pytest.raises(HeadwiseError, match="All prompts of 'Color' are among the truth's"):
        tuning_of(planted.pipe, concepts, truth, prompts=["a red car"])
