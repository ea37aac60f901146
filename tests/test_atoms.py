"""Atoms: the means of Soft-TIFA by hand, what parents do, and the texts of the built-in prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headwise.benchmarks.atoms import counted, score_atoms, soft_tifa
from headwise.benchmarks.atoms_benchmark import atom_scores
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts.atoms import Atom, AtomPrompt, prompts_with
from headwise.benchmarks.prompts.files import read_prompts
from headwise.benchmarks.prompts.nouns import numbered, phrase, plural, singular
from headwise.errors import HeadwiseError
from headwise.measuring.concepts import ConceptSet
from headwise.model.words import find
from helpers import Stub, text


def atom(kind="thing", *parents, word="dog", texts=("a dog", "a cat")):
    return Atom(kind, word, texts, parents=parents)


@st.composite
def graphs(draw):
    """Atoms whose parents come before them, their probabilities, and whether they hold."""
    n = draw(st.integers(1, 6))
    parents = [draw(st.sets(st.integers(0, i - 1), max_size=2)) if i else set() for i in range(n)]
    p = draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))
    holds = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return [atom("thing", *sorted(each)) for each in parents], np.array(p), np.array(holds)


@given(graphs())
def test_the_arithmetic_mean_is_never_below_the_geometric_one(graph):
    am, gm = soft_tifa(*graph)
    assert 0 <= gm <= am + 1e-12 and am <= 1


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_atoms_changes_nothing(graph, random):
    atoms, p, holds = graph
    order = list(range(len(atoms)))
    random.shuffle(order)
    moved = [atoms[i]._replace(parents=tuple(order.index(j) for j in atoms[i].parents)) for i in order]
    assert soft_tifa(moved, p[order], holds[order]) == pytest.approx(soft_tifa(atoms, p, holds))


@given(graphs())
def test_an_atom_counts_if_all_above_it_hold(graph):
    atoms, _, holds = graph

    def above(i):
        return {j for parent in atoms[i].parents for j in ({parent} | above(parent))}

    assert counted(atoms, holds).tolist() == [all(holds[j] for j in above(i)) for i in range(len(atoms))]


@given(graphs())
def test_without_parents_the_means_are_those_of_the_probabilities(graph):
    atoms, p, holds = graph
    am, gm = soft_tifa([each._replace(parents=()) for each in atoms], p, holds)
    assert am == pytest.approx(p.mean()) and gm == pytest.approx(p.prod() ** (1 / len(p)))


def test_what_is_said_of_a_thing_that_is_not_there_does_not_count():
    atoms = [atom(), atom("color", 0), atom("count", 1)]
    p = np.array([0.4, 0.9, 0.8])
    assert soft_tifa(atoms, p, np.array([True, True, True])) == pytest.approx((0.7, (0.4 * 0.72) ** (1 / 3)))
    assert soft_tifa(atoms, p, np.array([False, True, True])) == pytest.approx((0.4 / 3, 0))
    assert soft_tifa(atoms, p, np.array([True, False, True])) == pytest.approx((1.3 / 3, 0))
    assert counted([atom("thing", 1), atom("thing", 0)], np.array([True, False])).tolist() == [False, False]


def images(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(count)]


PROMPTS = [
    AtomPrompt("three red dogs", (
        Atom("count", "three", ("three dogs", "two dogs", "four dogs")),
        Atom("color", "red", ("red dogs", "blue dogs"), parents=(0,)),
    )),
    AtomPrompt("two cats", (Atom("count", "two", ("two cats", "six cats")),)),
]  # fmt: skip


def test_the_metrics_are_those_computed_one_by_one():
    pictures, prompts = images(12), PROMPTS * 6
    scores, naive = atom_scores(Stub(), pictures, prompts, "count"), []
    for picture, prompt in zip(pictures, prompts, strict=True):
        seen = np.asarray(picture, float).reshape(-1, 3).mean(0) + 1
        fits = [
            np.array([seen @ text(words) / np.linalg.norm(seen) for words in each.texts])
            for each in prompt.atoms
        ]
        p = [np.exp(np.exp(3) * f) / np.exp(np.exp(3) * f).sum() for f in fits]
        right = [f.argmax() == 0 for f in fits]
        q = [p[i][0] * all(right[j] for j in each.parents) for i, each in enumerate(prompt.atoms)]
        naive.append([np.mean(q), np.prod(q) ** (1 / len(q)), float(right[0])])
    assert np.allclose(scores, naive, atol=1e-5)
    assert set(scores[:, 2]) == {0.0, 1.0} and 0 in scores[:, 1] and (scores[:, 1] > 0).any()


def test_a_picture_is_looked_at_once_for_all_its_atoms():
    scorer, pictures = Stub(), images(2)
    (p, holds), (q, _) = score_atoms(scorer, pictures, PROMPTS)
    assert scorer.looked == 2 and len(p) == len(holds) == 2
    assert q == pytest.approx(scorer.probability(pictures[1:], [PROMPTS[1].atoms[0].texts]))


def test_prompts_with_a_kind_keeps_prompts_with_a_word_of_the_kind_and_samples_groups():
    silent = AtomPrompt("a dog", (Atom("count", None, ("one dog", "two dogs")),))
    other = PROMPTS[1]._replace(group="other")
    assert prompts_with([*PROMPTS, silent], "count") == PROMPTS
    assert prompts_with(PROMPTS * 5 + [other] * 5, "count", 2) == [
        *prompts_with(PROMPTS * 5, "count", 2),
        other,
        other,
    ]
    assert PROMPTS[0].words("count") == ("three",) and silent.words("count") == ()
    with pytest.raises(
        HeadwiseError, match="No prompt has a word that states a 'size'.*kinds that they have: color, count"
    ):
        prompts_with(PROMPTS, "size")


def test_nouns_in_numbers():
    plurals = {
        "dog": "dogs", "teddy bear": "teddy bears", "mouse": "mice", "bus": "buses", "bench": "benches",
        "butterfly": "butterflies", "horse": "horses", "cookie": "cookies", "fish": "fish",
        "dress": "dresses",
    }  # fmt: skip
    for one, many in plurals.items():
        assert (plural(one), singular(many), singular(one)) == (many, one, one)
    assert [numbered(number, "mouse") for number in ("one", "two")] == ["one mouse", "two mice"]
    assert phrase("orange", "dog", many=False) == "an orange dog" and phrase("", "jeans", False) == "jeans"
    assert phrase("red", "box", many=True) == "red boxes"


def test_the_built_in_prompts_say_words_that_reports_use():
    prompts = read_prompts("emoji")
    concepts = ConceptSet.load("emoji")
    words = {name: concepts.words(name) for name in ("Counting", "Color")}
    assert {prompt.group for prompt in prompts} == {"counts", "pairs", "coloured pairs", "coloured counts"}
    for prompt in prompts:
        right = {each.texts[0] for each in prompt.atoms}
        for each in prompt.atoms:
            assert (
                each.word and find(prompt.prompt, each.word) and len(set(each.texts)) == len(each.texts) > 1
            )
            assert not right & set(each.texts[1:]), "no wrong text is right"
            places = [words[name].index(each.word) for name in words if each.word in words[name]]
            assert all(place % 2 for place in places), "even places are for tuning"
    (zebra,) = (p for p in prompts if p.prompt == "six zebras")
    assert zebra.atoms[0][:2] == ("count", "six") and set(zebra.atoms[0].texts) == {
        "six zebras", "one zebra", "two zebras", "three zebras", "four zebras", "five zebras",
    }  # fmt: skip
    (pair,) = (p for p in prompts if p.prompt == "a blue cat and a yellow bird")
    assert pair.atoms[0].texts[:2] == (pair.prompt, "a red cat and a yellow bird")


def test_the_judge_of_the_built_in_model_answers_for_every_atom():
    prompts = read_prompts("emoji")[:3]
    for p, holds in score_atoms(CLIPScorer.load("emoji"), images(3), prompts):
        assert ((p > 0) & (p < 1)).all() and holds.dtype == bool
