"""The tokenizer of the emoji world: a `CLIPTokenizer` whose few merges were learnt from the world's own captions.

Every byte is in the vocabulary, so any text can be encoded; words of the world are whole tokens, other words fall into pieces.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import world
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

__all__ = ["LENGTH", "build", "encode"]

LENGTH = 24  # tokens of a prompt, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"


def build(folder: Path, captions: int = 30_000, seed: int = 0) -> CLIPTokenizer:
    """Learn the merges from sampled captions and save the tokenizer in `folder`."""
    rng = random.Random(seed)
    told = [world.sample(rng, rare=0.1)[1].lower() for _ in range(captions)]
    told += [w.lower() for words in world.CONCEPTS.values() for w in words for _ in range(20)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Punctuation()]
    )
    bpe.train_from_iterator(
        told, trainers.BpeTrainer(vocab_size=1400, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(m) for m in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))  # the two files that transformers 4 reads
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(m) for m in merges), ""]))
    return tokenizer


def encode(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids of captions, padded: captions × 24."""
    return tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
