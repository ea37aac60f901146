"""Words to token positions, and the sentences for words that are not there."""

import re
from types import SimpleNamespace
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import tiny_tokenizer
from headwise.errors import HookMisuse, WordNotInPrompt
from headwise.model.tokens import TextSegment, positions_in, split_words, token_positions, words_of
from headwise.model.words import folded

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
        "Token positions, such as (4, 5), can be given in place of a word."
    )
    with pytest.raises(WordNotInPrompt, match=r"Its words are: a, dog\. Token"):
        positions("a dog", "zebra")
    with pytest.raises(WordNotInPrompt):
        positions("a dog", " ")


def test_a_word_beyond_what_the_encoder_reads_is_refused():
    prompt = "red " * 30 + "dog"
    assert len(positions(prompt, "red", 1)) == 1
    with pytest.raises(WordNotInPrompt, match="'dog' is beyond the 24 tokens"):
        positions(prompt, "dog")


@pytest.mark.parametrize(
    ("prompt", "word", "found"),
    [
        ("一只红色的狗", "红色", "红色"),
        ("赤い犬が走る", "犬", "犬"),
        ("สีแดงวิ่ง", "แดง", "แดง"),
        ("红car", "car", "car"),
        ("1girl, red_hair", "hair", "hair"),
        ("_red_ dog", "red", "red"),
        (normalize("NFD", "a café dog"), "café", normalize("NFD", "café")),
        ("a café dog", normalize("NFD", "CAFÉ"), "café"),
        (normalize("NFD", "한국 개"), "한국", normalize("NFD", "한국")),
        ("don’t walk", "don't", "don’t"),
        ("don't walk", "don’t", "don't"),
        ("a 🐕 of red", "🐕", "🐕"),
        ("dog🐕", "dog", "dog"),
    ],
)
def test_words_of_every_script_are_found(prompt, word, found):
    start = prompt.index(found)
    before, own = (len(TOKENIZER.tokenize(text)) for text in (prompt[:start], prompt[: start + len(found)]))
    assert positions(prompt, word) == tuple(range(1 + before, 1 + own))


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a café", "cafe"),
        (normalize("NFD", "a café"), "cafe"),
        ("สี", "ส"),  # a consonant without its vowel
        ("लाल", "ल"),
        ("한국", "한"),
        ("redhair", "hair"),
    ],
)
def test_a_part_of_a_word_is_not_a_word(prompt, word):
    with pytest.raises(WordNotInPrompt, match=r"Token positions, such as \(4, 5\), can be given in place"):
        positions(prompt, word)


def test_of_all_occurrences_those_that_are_read_are_taken():
    prompt = "red dog " * 11 + "frog red frog"
    assert positions(prompt, "red") == tuple(range(1, 23, 2))
    with pytest.raises(WordNotInPrompt, match="'frog' is beyond the 24 tokens"):
        positions("dog " * 20 + "frog", "frog")  # of whose letters two are read
    with pytest.raises(WordNotInPrompt, match="'red' is beyond"):
        positions(prompt, "red", 12)


def test_tokenizers_that_do_not_tell_are_refused():
    slow = SimpleNamespace(is_fast=False, model_max_length=24)
    with pytest.raises(HookMisuse, match=r"does not give the characters .* such as \(4, 5\)"):
        positions_in((TextSegment(slow),), "a dog", "dog")
    with pytest.raises(HookMisuse, match="The pipeline has no tokenizer, so no word can be found"):
        positions_in((), "a dog", "dog")
    with pytest.raises(
        HookMisuse, match="reads 77 tokens, of which the pipeline's tokenizers account for 24"
    ):
        positions_in((TextSegment(TOKENIZER),), "a dog", "dog", tokens=77)


PARTS = [
    "red",
    "dog",
    "a",
    "Café",
    "cafe\u0301",
    "don’t",
    "T-shirt",
    "red_hair",
    "红色",
    "的",
    "犬が",
    "สีแดง",
]
PARTS += [
    "🐕",
    "👩\u200d🚀",
    "❤️",
    "(",
    "[x:1.2]",
    ",",
    ".",
    "C++",
    "--",
    " ",
    "  ",
    "\n",
    "лес",
    "हिन्दी",
    "한국",
]
PROMPTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=14).map("".join)


def bare(text):
    return re.sub(r"\s", "", folded(text.lower())).casefold()


@settings(max_examples=300)
@given(PROMPTS, st.data())
def test_a_word_is_covered_by_its_tokens_or_refused(prompt, data):
    part = st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda at: prompt[at[0] : sum(at)])
    word = data.draw(st.sampled_from(PARTS) | part | st.text(max_size=3))
    try:
        found = positions(prompt, word, data.draw(st.sampled_from([None, 1, 2])))
    except WordNotInPrompt:
        return
    read = TOKENIZER(prompt, truncation=True, max_length=24).input_ids
    assert found and 0 < min(found) and max(found) < len(read) - 1
    assert bare(word) in bare(TOKENIZER.decode([read[p] for p in found]))


@settings(max_examples=200)
@given(st.lists(st.sampled_from([part for part in PARTS if part.strip()]), min_size=1, max_size=6), st.data())
def test_positions_are_those_of_counting_tokens_one_by_one(words, data):
    """The naive way: as many tokens as the text before the word has alone, and then its own."""
    n = data.draw(st.integers(0, len(words) - 1))
    before = 1 + len(TOKENIZER.tokenize(" ".join(words[:n])))
    own = before + len(TOKENIZER.tokenize(words[n]))
    if own > 23:
        return
    prompt = " ".join(words)
    everywhere = positions(prompt, words[n])
    assert set(range(before, own)) <= set(everywhere)
    found = {w.positions: w for w in split_words((TextSegment(TOKENIZER),), prompt)}
    core = [w for w in found if w and before <= w[0] and w[-1] < own]
    assert core or not re.search(r"\w|[^\x00-\x7f]", words[n])


@given(st.lists(st.sampled_from(["dog", "red", "frog", "T-shirt", "vase,", "(car)"]), min_size=1, max_size=3))
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


def test_symbols_are_words_where_no_letter_is():
    found = split_words((TextSegment(TOKENIZER),), "a (🐕) of 红, C++ dog❤️!")
    assert [word.text for word in found] == ["a", "🐕", "of", "红", "C", "dog", "❤️"]
    assert found[1].positions == (3, 4, 5, 6) and found[1].occurrence == 1
    assert len({p for word in found for p in word.positions}) == sum(len(word.positions) for word in found)
