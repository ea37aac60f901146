"""The built-in models: plain diffusers objects, whole, and able to draw what they are asked for."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from headwise import emoji
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.errors import ModelNotLoaded
from headwise.intervals import wilson
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.generate import generate
from headwise.model.heads import HeadMap
from headwise.model.pipelines import fingerprint, is_emoji, load_pipeline, model_name, quiet

GROUPS = {"color", "style", "weather", "scene", "object", "pair"}


SHAPES = {"emoji": ("StableDiffusionPipeline", 12, 8), "emoji-dit": ("PixArtSigmaPipeline", 8, 12)}


@pytest.fixture(scope="module", params=emoji.MODELS)
def built_in(request):
    return emoji.MODELS[request.param]


@pytest.fixture(scope="module")
def pipe(built_in):
    return load_pipeline(built_in.name)


def test_it_loads_as_any_pipeline_does(built_in, pipe):
    kind, layers, heads = SHAPES[built_in.name]
    plain = getattr(diffusers, kind).from_pretrained(built_in.model)
    assert isinstance(pipe, type(plain)) and is_emoji(pipe) and is_emoji(plain)
    assert model_name(pipe) == model_name(plain) == built_in.name
    head_map = HeadMap.of(pipe)
    assert (len(head_map), head_map.all_heads) == (layers, layers * heads)
    assert {layer.heads for layer in head_map} == {heads}


def test_the_transformer_draws_without_options_what_plain_diffusers_draws_with_them():
    pipe = load_pipeline("emoji-dit")
    plain = diffusers.PixArtSigmaPipeline.from_pretrained(emoji.DIT.model)
    needed = {"use_resolution_binning": False, "clean_caption": False}
    options = {"num_inference_steps": 2, "output_type": "np"}
    with quiet(pipe), quiet(plain):
        ours = pipe("a red car", generator=torch.Generator().manual_seed(1), **options).images
        padded_to_300 = plain(
            "a red car", generator=torch.Generator().manual_seed(1), **options, **needed
        ).images
    assert ours.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(ours, padded_to_300, atol=2e-3)


def test_their_files_are_safe_and_small():
    files = [file for file in emoji.UNET.folder.rglob("*") if file.is_file()]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".md", ".png", ".py", ".pyc"}
    assert sum(f.stat().st_size for f in files if f.suffix == ".safetensors") <= 80 * 10**6


def test_every_concept_word_is_known_to_its_tokenizer_whole(pipe):
    concepts = ConceptSet.load("emoji")
    for name in concepts.names:
        for word in concepts.words(name):
            pieces = pipe.tokenizer.tokenize(word)
            assert all(piece.endswith("</w>") for piece in pieces), (word, pieces)


def test_end_and_padding_say_nothing(pipe):
    """What a caption says sits in its words' tokens; a weakened word leaves nothing to read elsewhere."""

    def states(prompt):
        said = pipe.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return said[0][0]

    empty = states("")
    for prompt in ("a red car in the forest", "two dogs", "a sepia picture of a rose on a rainy day"):
        count = len(pipe.tokenizer(prompt).input_ids) - 1
        said = states(prompt)
        silent = (said[count:] - empty[count:]).square().mean()
        assert silent < 0.01 * (said[1:count] - empty[1:count]).square().mean(), prompt


def test_the_judge_reads_colours_in_its_pictures(built_in, pipe):
    colors = ("red", "blue", "green", "yellow")
    things = ("car", "chair", "shirt")
    prompts = [f"a {color} {thing}" for color in colors for thing in things]
    with quiet(pipe):
        images = generate(
            pipe, prompts, 0, range(12), num_inference_steps=10, guidance_scale=5.0, output_type="pil"
        )
    captions = [[f"a {color} {thing}" for color in colors] for _ in colors for thing in things]
    asked = np.repeat(np.arange(4), 3)
    assert (CLIPScorer.load(built_in.name).choose(images, captions) == asked).sum() >= 8  # chance is 3


def test_its_relevance_was_measured_on_its_weights(built_in, pipe):
    relevance = Relevance.load(built_in.relevance)
    for measured in (relevance, Relevance.load(built_in.effect)):
        assert measured.settings["weights"] == fingerprint(pipe)
        assert measured.concepts == ConceptSet.load("emoji").names
    assert np.median(relevance.split_half) > 0.95


def test_its_card_says_what_was_measured(built_in):
    card = built_in.card()
    assert set(card["generated"]) >= GROUPS and set(card["real"]) >= GROUPS
    assert set(card["judge"]) == set(ConceptSet.load("emoji").names)
    assert {"misread_plain", "samples", "minutes", "device"} <= card.keys()
    text = (built_in.folder / "README.md").read_text()
    assert f"{100 * card['generated']['color']['accuracy']:.0f} %" in text
    for shares in (card["generated"], card["real"]):
        for group, share in shares.items():
            expected = wilson(round(share["accuracy"] * share["n"]), share["n"])
            assert (share["accuracy"], share["low"], share["high"]) == pytest.approx(expected, abs=1e-4), (
                group
            )


def test_a_broken_installation_says_so(built_in, tmp_path):
    said = f"is missing: the model {built_in.name} is incomplete. Install headwise again."
    with pytest.raises(ModelNotLoaded, match=said):
        replace(built_in, folder=tmp_path).load()
