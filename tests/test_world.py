"""The drawn world that the built-in model was trained on: its scenes, captions and truth (training/)."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwise.benchmarks.prompts.edit_pairs import edit_pairs
from headwise.benchmarks.prompts.evaluation import multi_subject_prompts
from headwise.benchmarks.prompts.files import read_prompts
from headwise.benchmarks.prompts.given_pictures import given_pairs
from headwise.model.words import words_of

TRAINING = Path(__file__).parent.parent / "training"
sys.path.insert(0, str(TRAINING))
world = pytest.importorskip("world", reason="training/ is in the repository only")
drawing = pytest.importorskip("drawing", reason="training/ is in the repository only")
vocabulary = sys.modules["vocabulary"]


def sampled(seed):
    return world.sample(random.Random(seed), rare=0.2, bare=0.0)


@given(st.integers(0, 2**32))
def test_a_caption_tells_every_word_that_is_true(seed):
    scene, caption = sampled(seed)
    told = caption.replace(" mountains", " mountain")
    for concept, words in world.truth(scene).items():
        for word in words:
            noun = vocabulary.phrase(word)
            assert word in told or vocabulary.plural(noun) in told or noun in told, (concept, word, caption)


@given(st.integers(0, 2**32))
def test_training_never_shows_a_held_out_combination(seed):
    scene, _ = sampled(seed)
    words = [thing.word for thing in scene.things]
    assert not (len(words) == 2 and world.held_out(*words))
    assert not any(t.color in vocabulary.COLORS and world.held_out(t.color, t.word) for t in scene.things)


@given(st.integers(0, 2**32))
def test_a_twin_differs_in_one_concept(seed):
    scene, _ = sampled(seed)
    twin = world.counterfactual(scene, random.Random(seed))
    truths = world.truth(scene), world.truth(twin)
    if not truths[0]:  # a plain vase: no concept has a word for it
        assert twin == scene
        return
    assert len([c for c in truths[0] | truths[1] if truths[0].get(c) != truths[1].get(c)]) == 1


def test_the_same_seed_is_the_same_scene():
    assert sampled(3) == sampled(3) != sampled(4)


def test_the_words_are_the_concept_set_of_the_package():
    from headwise.measuring.concepts import ConceptSet

    concepts = ConceptSet.load("emoji")
    assert {name: concepts.words(name) for name in concepts.names} == vocabulary.CONCEPTS
    assert len(concepts) >= 26 and sum(len(concepts.words(n)) for n in concepts.names) >= 180
    assert len(world.two_sense()) >= 12


def test_packaging_writes_these_words_and_keeps_what_stands_around_them():
    package = pytest.importorskip("package", reason="training/ is in the repository only")
    before = (package.SOURCE / "data" / "emoji.toml").read_text(encoding="utf-8")
    assert package.concept_file(before) == before
    other = before.replace('["dog", "cat"', '["wolf"')
    assert "{thing}" in other and other != before == package.concept_file(other)


@pytest.fixture(scope="module")
def painter():
    """Sprites of one grey square each: enough to see what is done to a sprite."""
    square = np.zeros((3, 1, 64, 64, 4), np.uint8)
    square[..., 8:56, 8:56, :] = (120, 120, 120, 255)
    names = (*world.NOUNS, *vocabulary.OTHER)
    return drawing.Painter(dict.fromkeys(names, square))


@pytest.mark.parametrize("concept", vocabulary.ATTRIBUTES)
def test_every_word_of_an_attribute_is_drawn_differently(painter, concept):
    pictures = []
    for word in vocabulary.ATTRIBUTES[concept]:
        scene = world.showing(concept, word, random.Random(1))
        pictures.append(painter.draw(scene).astype(float))
        assert pictures[-1].shape == (64, 64, 3)
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 1, concept


def test_methods_are_compared_on_reporting_words_alone():
    """What is settled beforehand, such as recipes and doses, is settled on the words at even places."""
    reporting = {word for words in vocabulary.CONCEPTS.values() for word in words[1::2]}
    tuning = {word for words in vocabulary.CONCEPTS.values() for word in words[::2]} - reporting
    edits = [*edit_pairs("emoji", 1000), *given_pairs("emoji")]
    several = [word for each in multi_subject_prompts("emoji", 1000) for word in each.words]
    said = {word for pair in edits for text in (pair.source, pair.target) for word in words_of(text)}
    assert {*said, *several} & tuning == set()
    assert {pair.word for pair in edits} | set(several) <= reporting
    atoms = [atom.word for prompt in read_prompts("emoji") for atom in prompt.atoms]
    singular = {vocabulary.plural(word): word for word in reporting}
    assert {singular.get(word, word) for word in atoms} <= reporting | {"one"}
