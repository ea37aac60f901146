"""Alignment: every token of the target comes from the right tokens of the source, or is new."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TRANSFORMERS, tiny_sd, tiny_sdxl, tiny_tokenizer
from headwise.editing.alignment import align
from headwise.editing.attend_and_excite import Excite
from headwise.editing.local_blend import LocalBlend
from headwise.editing.prompt_to_prompt import PromptToPrompt, check_targets
from headwise.errors import PromptsNotAlike
from headwise.model.heads import HeadMap
from headwise.model.sites import DenoiserCall
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import TextSegment, positions_in, token_positions

TOKENIZER = tiny_tokenizer()
SEGMENTS = (TextSegment(TOKENIZER),)
WORDS = st.sampled_from(
    ["a", "red", "dog", "cat", "vase", "lavender", "on", "the", "beach", "polka-dot", "zebra"]
)
PROMPTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


@settings(deadline=None)
@given(PROMPTS)
def test_a_prompt_aligns_with_itself_token_by_token(prompt):
    found = align(SEGMENTS, prompt, prompt)
    assert np.array_equal(found.matrix, np.eye(len(found.matrix)))
    assert not found.replaced.any() and not found.new.any()


@settings(deadline=None)
@given(PROMPTS, PROMPTS)
def test_no_attention_is_made_or_handed_on_twice(source, target):
    """Rows of M sum to 1, or to 0 where a word was dropped; words of a target come from it or are new."""
    source, target = f"a {source}", f"a {target}"
    found = align(SEGMENTS, source, target)
    rows = found.matrix.sum(1)
    assert np.all(np.isclose(rows, 1) | (rows == 0))
    end = len(TOKENIZER(target)["input_ids"])
    assert np.array_equal(found.matrix.sum(0)[:end] > 0, ~found.new[:end])
    assert not (found.new & found.replaced).any()


@settings(deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=4, unique=True), st.data())
def test_alignment_inverts(words, data):
    """One word exchanged or added: who stands for whom is the same on the way back."""
    place = data.draw(st.integers(0, len(words) - 1))
    source = [*words[:place], *["penguin"] * data.draw(st.booleans()), *words[place + 1 :]]
    there = align(SEGMENTS, " ".join(source), " ".join(words)) if set(source) & set(words) else None
    if there is not None:
        back = align(SEGMENTS, " ".join(words), " ".join(source))
        assert np.array_equal(there.matrix.T > 0, back.matrix > 0)


def test_words_of_unequal_token_counts_share_attention():
    source, target = "a red dog", "a lavender dog"
    found = align(SEGMENTS, source, target)
    red = token_positions(TOKENIZER, source, "red")
    lavender = token_positions(TOKENIZER, target, "lavender")
    assert len(lavender) != len(red)
    assert np.allclose(found.matrix[np.ix_(red, lavender)], 1 / len(lavender))
    assert found.replaced.nonzero()[0].tolist() == list(lavender)
    dogs = token_positions(TOKENIZER, source, "dog")[0], token_positions(TOKENIZER, target, "dog")[0]
    assert found.matrix[dogs] == 1


def test_added_words_are_new_and_the_rest_moves_along():
    source, target = "a dog on the beach", "a red dog on the beach"
    found = align(SEGMENTS, source, target)
    assert found.new.nonzero()[0].tolist() == list(token_positions(TOKENIZER, target, "red"))
    for word in ("dog", "beach"):
        s, t = (token_positions(TOKENIZER, p, word) for p in (source, target))
        assert np.array_equal(found.matrix[np.ix_(s, t)], np.eye(len(s)))
    ends = [len(TOKENIZER(p)["input_ids"]) - 1 for p in (source, target)]
    assert found.matrix[ends[0], ends[1]] == 1


def test_punctuation_stands_for_itself():
    found = align(SEGMENTS, "a red dog", "a red dog, a cat")
    assert not found.replaced.any()
    dogs = token_positions(TOKENIZER, "a red dog", "dog")
    assert np.array_equal(found.matrix[np.ix_(dogs, dogs)], np.eye(len(dogs)))


def test_writing_without_spaces_is_aligned_character_by_character():
    source, target = "一只红的狗", "一只蓝的狗"
    found = align(SEGMENTS, source, target)
    own = token_positions(TOKENIZER, target, "蓝")
    assert found.replaced.nonzero()[0].tolist() == list(own) and not found.new.any()
    dogs = token_positions(TOKENIZER, target, "狗")
    assert np.array_equal(found.matrix[np.ix_(dogs, dogs)], np.eye(len(dogs)))


def test_learned_words_move_what_follows():
    pipe = tiny_sd()
    pipe.load_textual_inversion(torch.randn(3, 32), token="<toy>")
    found = align(text_segments(pipe), "a <toy> dog and a cat", "a <toy> dog and a red cat")
    assert found.new.nonzero()[0].tolist() == [10]
    assert found.matrix[10, 11] == 1 and found.matrix[5, 5] == 1  # cat, dog
    check_targets(pipe, "a <toy> dog", ["a <toy> cat"])


def test_hooks_find_words_behind_learned_ones():
    pipe = tiny_sd()
    pipe.load_textual_inversion(torch.randn(3, 32), token="<toy>")
    prompts = ("a <toy> dog", "a <toy> red cat dog")  # red at 5, cat at 6, dog at 7
    call = DenoiserCall(
        prompts=prompts, segments=text_segments(pipe), tokens=24, steps=2, grid=(8, 8),
        head_map=HeadMap.of(pipe),
    ).of_rows(2)  # fmt: skip
    edit, blend, excite = (
        PromptToPrompt(weights={"cat": 2.0}),
        LocalBlend(),
        Excite([["dog"], ["red", "cat"]]),
    )
    for hook in (edit, blend, excite):
        hook.prepare(call)
    assert (edit._w[1] != 1).nonzero().flatten().tolist() == [6]
    assert blend._words[1].nonzero().flatten().tolist() == [5, 6]
    assert excite._subjects == [[(5,)], [(5,), (6,)]]
    assert excite._words == [[*range(1, 6)], [*range(1, 8)]]


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "sana", "pixart"])
def test_each_encoder_is_aligned_where_its_tokens_stand(name):
    pipe = TRANSFORMERS[name]()
    segments, source, target = text_segments(pipe), "a red dog", "a red cat"
    found = align(segments, source, target, max(segment.stop for segment in segments))
    assert found.replaced.nonzero()[0].tolist() == list(positions_in(segments, target, "cat"))
    reds = list(positions_in(segments, source, "red"))
    assert np.array_equal(found.matrix[np.ix_(reds, reds)], np.eye(len(reds)))
    assert align(segments, source, source).matrix.sum(0).max() == 1
    check_targets(pipe, source, [target])


def test_texts_side_by_side_must_change_together():
    segments = text_segments(
        tiny_sdxl(), {"prompt": ["a red dog", "a red cat"], "prompt_2": ["a big red dog", "a red dog"]}
    )
    with pytest.raises(PromptsNotAlike, match="Change the same words in both"):
        align(segments, "a red dog", "a red cat", 24, (0, 1))


def test_prompts_without_a_common_word_are_refused():
    with pytest.raises(PromptsNotAlike, match="have no word in common.*changing or adding words"):
        align(SEGMENTS, "red dog", "blue vase")
