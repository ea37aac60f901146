"""The built-in model: plain diffusers objects, whole, and able to draw what it is asked for."""

import numpy as np
import pytest

from headwise import emoji
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.errors import ModelNotLoaded
from headwise.intervals import wilson
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import fingerprint, is_emoji, load_pipeline, quiet

GROUPS = {"color", "style", "weather", "scene", "object", "pair"}


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("emoji")


def test_it_loads_as_any_pipeline_does(pipe):
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(emoji.MODEL)
    assert type(pipe) is type(plain) and is_emoji(pipe) and is_emoji(plain)
    head_map = HeadMap.of(pipe)
    assert (len(head_map), head_map.all_heads) == (16, 128)
    assert {layer.heads for layer in head_map} == {8}


def test_its_files_are_safe_and_small():
    files = [file for file in emoji.MODEL.parent.rglob("*") if file.is_file()]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".md", ".png", ".py", ".pyc"}
    assert sum(f.stat().st_size for f in files if f.suffix == ".safetensors") <= 80 * 2**20


def test_every_concept_word_is_known_to_its_tokenizer_whole(pipe):
    concepts = ConceptSet.load("emoji")
    for name in concepts.names:
        for word in concepts.words(name):
            pieces = pipe.tokenizer.tokenize(word)
            assert all(piece.endswith("</w>") for piece in pieces), (word, pieces)


def test_end_and_padding_say_nothing(pipe):
    """What a caption says sits in its words' tokens; a weakened word leaves nothing to read elsewhere."""

    def states(prompt):
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0][0]

    empty = states("")
    for prompt in ("a red car in the forest", "two dogs", "a sepia picture of a rose on a rainy day"):
        count = len(pipe.tokenizer(prompt).input_ids) - 1
        said = states(prompt)
        silent = (said[count:] - empty[count:]).square().mean()
        assert silent < 0.01 * (said[1:count] - empty[1:count]).square().mean(), prompt


def test_the_judge_reads_colours_in_its_pictures(pipe):
    colors = ("red", "blue", "green", "yellow")
    things = ("car", "chair", "shirt")
    prompts = [f"a {color} {thing}" for color in colors for thing in things]
    with quiet(pipe):
        images = generate(
            pipe, prompts, 0, range(12), num_inference_steps=10, guidance_scale=5.0, output_type="pil"
        )
    captions = [[f"a {color} {thing}" for color in colors] for _ in colors for thing in things]
    asked = np.repeat(np.arange(4), 3)
    assert (CLIPScorer.load("emoji").choose(images, captions) == asked).sum() >= 8  # chance is 3


def test_its_relevance_was_measured_on_its_weights(pipe):
    relevance = Relevance.load(emoji.RELEVANCE)
    assert relevance.settings["weights"] == fingerprint(pipe)
    assert relevance.concepts == ConceptSet.load("emoji").names
    assert np.median(relevance.split_half) > 0.95


def test_its_card_says_what_was_measured():
    card = emoji.card()
    assert set(card["generated"]) >= GROUPS and set(card["real"]) >= GROUPS
    assert set(card["judge"]) == set(ConceptSet.load("emoji").names)
    assert {"misread_plain", "samples", "minutes", "device"} <= card.keys()
    text = (emoji.MODEL.parent / "README.md").read_text()
    assert f"{100 * card['generated']['color']['accuracy']:.0f} %" in text
    for shares in (card["generated"], card["real"]):
        for group, share in shares.items():
            expected = wilson(round(share["accuracy"] * share["n"]), share["n"])
            assert (share["accuracy"], share["low"], share["high"]) == pytest.approx(expected, abs=1e-4), (
                group
            )


def test_a_broken_installation_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(emoji, "MODEL", tmp_path)
    with pytest.raises(
        ModelNotLoaded, match="is missing: the emoji model is incomplete. Install headwise again."
    ):
        emoji.load()
