"""Words to token positions, and the sentences for words that are not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tiny_tokenizer
from headwise.errors import WordNotInPrompt
from headwise.model.tokens import TextSegment, split_words, token_positions, words_of

TOKENIZER = tiny_tokenizer()  # knows dog, cat, red, a, of, photo, vase, in, color, car; spells all others


def positions(prompt, word, occurrence=None):
    return token_positions(TOKENIZER, prompt, word, occurrence)


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("a dog", "dog", (2,)),
        ("a DOG", "dog", (2,)),
        ("a dog", "Dog", (2,)),
        ("a dog, a cat.", "cat", (5,)),
        ("(dog)", "dog", (2,)),
        ("a big dog", "big", (2, 3, 4)),
        ("a red car in a red vase", "red", (2, 6)),
        ("a red car", "red car", (2, 3)),
        ("a   red \n car", "red car", (2, 3)),
        ("a red-color car", "red", (2,)),
        ("a red-color car", "red-color", (2, 3, 4)),
        ("a doghouse of a dog", "dog", (11,)),
        ("a t-shirt", "T-shirt", (2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_positions(prompt, word, expected):
    assert positions(prompt, word) == expected


def test_the_nth_occurrence_counts_from_one():
    prompt = "a red car in a red vase"
    assert positions(prompt, "red", 1) == (2,)
    assert positions(prompt, "red", 2) == (6,)
    with pytest.raises(
        WordNotInPrompt, match="'red' occurs 2 times in \"a red car in a red vase\"; occurrence 3"
    ):
        positions(prompt, "red", 3)
    with pytest.raises(WordNotInPrompt, match="'car' occurs once"):
        positions(prompt, "car", 0)


def test_positions_are_those_of_the_words_own_tokens():
    prompt, word = "a photo of a striped vase", "striped"
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER(prompt)["input_ids"])
    assert "".join(tokens[i] for i in positions(prompt, word)) == "striped</w>"


def test_a_missing_word_is_answered_with_the_words_and_the_nearest():
    with pytest.raises(WordNotInPrompt) as caught:
        positions("a vase in lavender color", "lavendar")
    assert str(caught.value) == (
        "'lavendar' is not a word of \"a vase in lavender color\".\n"
        "Its words are: a, vase, in, lavender, color. Did you mean 'lavender'? "
        "Token positions, such as (4, 5), do in place of a word."
    )
    with pytest.raises(WordNotInPrompt, match=r"Its words are: a, dog\. Token"):
        positions("a dog", "zebra")
    with pytest.raises(WordNotInPrompt):
        positions("a dog", " ")


def test_a_word_beyond_what_the_encoder_reads_is_refused():
    prompt = "red " * 30 + "dog"
    assert len(positions(prompt, "red", 1)) == 1
    with pytest.raises(WordNotInPrompt, match="'dog' stands beyond the 24 tokens"):
        positions(prompt, "dog")


@given(st.lists(st.sampled_from(["dog", "red", "frog", "T-shirt", "vase,", "(car)"]), min_size=1, max_size=4))
def test_every_word_of_a_prompt_is_found_in_it(words):
    prompt = " ".join(words)
    for word in words_of(prompt):
        assert positions(prompt, word)


def test_words_are_read_with_their_places_and_pieces():
    found = split_words((TextSegment(TOKENIZER),), "a big dog, not a -- dog")
    assert [(word.text, word.occurrence) for word in found] == [
        ("a", 1),
        ("big", 1),
        ("dog", 1),
        ("not", 1),
        ("a", 2),
        ("dog", 2),
    ]
    assert found[1].pieces == ("b", "i", "g") and found[1].positions == (2, 3, 4)
    for word in found:
        assert word.positions == positions("a big dog, not a -- dog", word.text, word.occurrence)
    far = split_words((TextSegment(TOKENIZER),), "big " * 10 + "dog")
    assert far[-1].positions == () and far[-1].pieces == ()
    assert split_words((TextSegment(TOKENIZER),), " -- ") == ()
