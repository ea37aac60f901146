"""The ComfyUI nodes find words where ComfyUI's own tokenizers put them."""

import pytest
import torch

import comfyui_standin as comfyui
from conftest import tiny_tokenizer
from headwise.errors import WordNotInPrompt
from headwise.model.tokens import token_positions, word_positions


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    with comfyui.loaded_nodes(tmp_path, monkeypatch) as package:
        yield package


@pytest.mark.parametrize("word", ["red", "vase", "lavender", "a red vase", "Red", "in lavender"])
@pytest.mark.parametrize("prompt", ["a red vase in lavender color", "lavender, a red vase in  lavender."])
def test_words_stand_where_the_tokenizers_offsets_put_them(nodes, prompt, word):
    tokenizer = tiny_tokenizer()
    expected = token_positions(tokenizer, prompt, word)
    assert nodes.words.find(comfyui.clip(), prompt, word) == (expected, 24)
    assert nodes.words.find(comfyui.clip(), prompt, None).positions == word_positions(tokenizer, prompt)


@pytest.mark.parametrize("prompt", ["a (red:1.3) vase", "(a red) vase", "a (red vase:0.8)"])
def test_weights_move_no_word(nodes, prompt):
    assert nodes.words.find(comfyui.clip(), prompt, "red").positions == (2,)
    assert nodes.words.find(comfyui.clip(), prompt, "vase").positions == (3,)


def test_brackets_behind_a_backslash_are_text(nodes):
    assert nodes.words.find(comfyui.clip(), "a (red) vase", "vase").positions == (3,)
    assert nodes.words.find(comfyui.clip(), r"a \(red\) vase", "vase").positions == (5,)


def test_occurrences_and_phrases(nodes):
    prompt = "a red dog, a red cat"
    first, second = (2,), (6,)
    assert nodes.words.find(comfyui.clip(), prompt, "red").positions == first + second
    assert nodes.words.find(comfyui.clip(), prompt, "red", 2).positions == second
    assert nodes.words.find(comfyui.clip(), prompt, "red cat").positions == (6, 7)


def test_words_are_found_in_later_chunks(nodes):
    """Start and end tokens between the chunks are counted; a short group moves to the next chunk whole."""
    long = "(a a a a a:1.1) (a a a a a:1.2) (a a a a a:1.3) (a a a a a:1.4) (red vase:1.5) red"
    reading = nodes.words.find(comfyui.clip(), long, "red")
    numbers = [token for chunk in comfyui.clip().tokenize(long)["l"] for token, _ in chunk]
    red = tiny_tokenizer()("red")["input_ids"][1]
    assert reading.tokens == 48 == len(numbers)
    assert [numbers[position] for position in reading.positions] == [red, red]
    assert reading.positions[1] > 24


def test_embeddings_take_a_place_for_each_vector(nodes):
    mine = comfyui.clip(embeddings={"mine": torch.arange(6.0).view(3, 2)})
    assert nodes.words.find(mine, "a embedding:mine red", "red").positions == (5,)
    assert nodes.words.find(mine, "a embedding:mine red", "embedding:mine").positions == (2, 3, 4)
    assert nodes.words.find(mine, "a embedding:mine red", None).positions == (1, 2, 3, 4, 5)


def test_of_two_encoders_both_are_read(nodes):
    two = comfyui.Clip(l=comfyui.Tokenizer(tiny_tokenizer()), g=comfyui.Tokenizer(tiny_tokenizer()))
    assert nodes.words.find(two, "a red vase", "vase") == ((3,), 24)


def test_words_that_are_not_there_are_refused(nodes):
    with pytest.raises(
        WordNotInPrompt, match=r"(?s)'lavendar' is not a word .* Did you mean 'lavender'\?"
    ) as no:
        nodes.words.find(comfyui.clip(), "a (lavender:1.2) vase", "lavendar")
    assert "Its words are: a, lavender, vase." in str(no.value)
    with pytest.raises(WordNotInPrompt, match="'vender' is not a word"):
        nodes.words.find(comfyui.clip(), "a lavender vase", "vender")
    with pytest.raises(WordNotInPrompt, match="'' is not a word"):
        nodes.words.find(comfyui.clip(), "a vase", "")
    with pytest.raises(
        WordNotInPrompt, match="'a' occurs once .* occurrence 2 was asked for. Ask for 1 to 1"
    ):
        nodes.words.find(comfyui.clip(), "a vase", "a", 2)
