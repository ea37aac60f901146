"""Similarity, choice and backgrounds, on a tiny random CLIP and on the built-in one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from conftest import LENGTH, tiny_tokenizer
from headwise.benchmarks.clip_scorer import CLIPScorer, without_object
from headwise.errors import HeadwiseError, ModelNotLoaded

SIZE = 16


def tiny_processor():
    return CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random CLIP as a hub would serve it."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **small, vocab_size=len(tokenizer), max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1
    )
    vision = CLIPVisionConfig(**small, image_size=SIZE, patch_size=8)
    path = tmp_path_factory.mktemp("clip")
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    tiny_processor().save_pretrained(path)
    return path


def pictures(count, size=(24, 20), seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)) for _ in range(count)]


def test_similarity_is_the_models_own(folder):
    scorer, some, texts = CLIPScorer.load(folder), pictures(3), ["a dog", "a red cat"]
    ids = scorer.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    pixels = scorer.processor(images=some, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = scorer.model(input_ids=ids, pixel_values=pixels)
    expected = (out.logits_per_image / scorer.model.logit_scale.detach().exp()).numpy()
    assert np.allclose(scorer.similarity(some, texts), expected, atol=1e-6)


def test_choice_and_certainty_are_of_each_pictures_own_texts(folder):
    scorer, some = CLIPScorer.load(folder), pictures(4)
    own = [["a dog", "a cat"], ["red", "a vase", "a car"], ["a cat", "a dog"], ["a dog"]]
    scores = [scorer.similarity([p], t)[0] for p, t in zip(some, own, strict=True)]
    assert scorer.choose(some, own).tolist() == [s.argmax() for s in scores]
    scale = float(scorer.model.logit_scale.detach().exp())
    expected = [np.exp(scale * s)[0] / np.exp(scale * s).sum() for s in scores]
    assert np.allclose(scorer.probability(some, own), expected, atol=1e-6)
    assert scorer.probability(some, own)[3] == 1
    with pytest.raises(HeadwiseError, match="4 images and 1 lists of texts"):
        scorer.choose(some, [["a dog"]])
    with pytest.raises(HeadwiseError, match="No image was given"):
        scorer.embed_images([])


def test_many_pictures_are_the_same_as_few(folder, monkeypatch):
    scorer, some = CLIPScorer.load(folder), pictures(5)
    whole = scorer.embed_images(some)
    monkeypatch.setattr("headwise.benchmarks.clip_scorer.AT_ONCE", 2)
    assert torch.allclose(scorer.embed_images(some), whole, atol=1e-6)


def test_likeness_of_a_picture_with_itself_is_one(folder):
    scorer, a, b = CLIPScorer.load(folder), pictures(3), pictures(3, seed=1)
    assert np.allclose(scorer.image_similarity(a, a), 1, atol=1e-6)
    assert (scorer.image_similarity(a, b) < 1).all()
    assert np.allclose(scorer.image_similarity(a, b), scorer.image_similarity(b, a), atol=1e-6)


def test_the_built_in_scorer_tells_colours_apart_and_none_from_a_dog():
    scorer = CLIPScorer.load()
    colours = {"red": (220, 50, 47), "blue": (40, 90, 200), "green": (40, 160, 70), "yellow": (240, 200, 40)}
    images = [Image.new("RGB", (64, 64), rgb) for rgb in colours.values()]
    for image in images:
        ImageDraw.Draw(image).rectangle((0, 0, 63, 8), fill=(255, 255, 255))
    cars = [f"a {colour} car" for colour in colours]
    scores = scorer.similarity(images, [*cars, "a dog"])
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
    assert (scores[:, 4] < scores[range(4), range(4)] - 0.1).all()
    own_first = [[car, *(other for other in cars if other != car)] for car in cars]
    assert scorer.choose(images, own_first).tolist() == [0] * 4
    assert scorer.choose(images, [texts[::-1] for texts in own_first]).tolist() == [3] * 4
    assert (scorer.probability(images, own_first) > 0.5).all()
    assert torch.allclose(scorer.embed_images(images).norm(dim=-1), torch.ones(4), atol=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_the_background_is_what_lies_outside_the_mask(seed):
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, (6, 5, 3), np.uint8)
    mask = rng.random((6, 5)) < 0.4
    mask[0, 0] = False
    after = before.copy()
    after[mask] = 255 - after[mask]
    covered = [np.asarray(without_object(Image.fromarray(each), mask)) for each in (before, after)]
    assert np.array_equal(*covered)
    assert np.array_equal(covered[0][~mask], before[~mask])
    assert (np.abs(covered[0][mask] - before[~mask].mean(0)) <= 0.5).all()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(HeadwiseError, match="The mask is"):
        without_object(pictures(1)[0], np.zeros((24, 20), bool))


def test_a_name_that_is_no_clip(tmp_path):
    with pytest.raises(ModelNotLoaded, match="could not be loaded as a CLIPModel"):
        CLIPScorer.load(tmp_path / "nothing")
