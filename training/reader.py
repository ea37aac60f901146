"""Train the reader, the text encoder that conditions the denoisers, from captions alone.

What a denoiser can draw of a word it reads in that word's token, so tokens have to be easy to tell apart: a reader that was trained
to match images with captions put the 335 words of the world into some twenty directions (README.md). Here the geometry is asked for directly:

    loss = 100 · mean (cos(w, w') − target)² + 5 · |end, padding − those of the empty caption|² + 5 · max(0, context − 0.15)
         + 0.3 · CE(what a word's token says beside the word itself → the three tokens before it)

*cos* is that of two words encoded alone, less the mean of all words; its target is 0.3 for words of one concept and 0 for others, so
that a head can listen to a concept. *context* is the mean square by which a token in a caption differs from the same token alone, in
units of the variance over tokens; that little must tell what stands before the word, so that a colour finds its thing. What a word's
own token does not say is not said: end and padding are silent.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import loop
import tokenizer as words
import torch
import torch.nn.functional as F
import world
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from vocabulary import CONCEPTS

CONTEXT = 0.15  # of a token's variance, at most, comes from the other words of its caption
ALIKE = 0.3  # the cosine of two words of a concept
BEFORE = 3  # tokens before a word that its token has to tell


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained reader, 192 wide with 4 layers; words begin large beside what the layers add to them."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=6,
            max_position_embeddings=words.LENGTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, projection_dim=128,
        )
    )  # fmt: skip
    nn.init.normal_(model.base_model.embeddings.token_embedding.weight, std=0.5)
    return model


def targets(tokenizer: CLIPTokenizer, vocabulary: Tensor) -> Tensor:
    """The cosine that every two tokens of the vocabulary are to have: tokens × tokens."""
    concept_of = {
        token: number
        for number, listed in enumerate(CONCEPTS.values())
        for word in listed
        for token in tokenizer(word, add_special_tokens=False).input_ids
    }
    concept = torch.tensor([concept_of.get(token, -1 - n) for n, token in enumerate(vocabulary.tolist())])
    return torch.where(concept[:, None] == concept, ALIKE, 0.0)


class Lone:
    """The tokens of the world, and how each is encoded alone."""

    def __init__(self, tokenizer: CLIPTokenizer, count: int = 20_000) -> None:
        rng = random.Random("vocabulary of the reader")
        ids = words.encode(tokenizer, [world.sample(rng, rare=0.1)[1] for _ in range(count)])
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.vocabulary = ids.unique()
        self.vocabulary = self.vocabulary[(self.vocabulary != self.start) & (self.vocabulary != self.end)]
        self.place = torch.full((len(tokenizer),), -1)
        self.place[self.vocabulary] = torch.arange(len(self.vocabulary))

    def encoded(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Every token alone (tokens × 192), and what end and padding say in the empty caption (192)."""
        alone = torch.full((len(self.vocabulary) + 1, 3), self.end)
        alone[:, 0], alone[:-1, 1] = self.start, self.vocabulary
        hidden = model(input_ids=alone).last_hidden_state
        return hidden[:-1, 1], hidden[-1, 1]


def main() -> None:
    """Train (or go on), then save the text encoder beside its tokenizer."""
    parse = loop.arguments(__doc__, minutes=10)
    parse.add_argument("--batch", type=int, default=128)
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(21)
    folder: Path = given.work / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder) if folder.exists() else words.build(folder)
    lone = Lone(tokenizer)
    target = targets(tokenizer, lone.vocabulary).to(given.device)
    apart = ~torch.eye(len(target), dtype=torch.bool, device=given.device)
    model = build(tokenizer).to(given.device)
    tell = nn.Linear(192, BEFORE * (len(lone.vocabulary) + 1)).to(given.device)  # thrown away afterwards

    def loss(step: int) -> dict[str, Tensor]:
        rng = random.Random(f"reader {step}")
        ids = words.encode(tokenizer, [world.sample(rng, rare=0.1)[1] for _ in range(given.batch)]).to(
            given.device
        )
        alone, empty = lone.encoded(model)
        centred = F.normalize(alone - alone.mean(0), dim=1)
        cosines = (centred @ centred.T - target)[apart].square().mean()
        hidden, place = model(input_ids=ids).last_hidden_state, lone.place.to(ids.device)[ids]
        quiet = (hidden - empty)[ids == lone.end].square().mean()
        spoken = place >= 0
        beside = hidden[spoken] - alone[place[spoken]]
        context = beside.square().mean() / alone.var(0).mean()
        before = [F.pad(place, (n, 0), value=-1)[:, : place.shape[1]][spoken] for n in range(1, BEFORE + 1)]
        told = tell(beside).unflatten(1, (BEFORE, -1))
        known = F.cross_entropy(told.flatten(0, 1), (torch.stack(before, 1) % told.shape[2]).flatten())
        total = 100 * cosines + 5 * quiet + 5 * F.relu(context - CONTEXT) + 0.3 * known
        return {"loss": total, "cosines": cosines, "quiet": quiet, "context": context, "known": known}

    spent = loop.fit(
        {"reader": model, "tell": tell}, loss, given.work / "reader.safetensors", given.minutes, 1e-3, given.batch,
        until=given.until,
    )  # fmt: skip
    model.eval().save_pretrained(given.work / "text_encoder")
    (given.work / "reader.json").write_text(json.dumps(spent))


if __name__ == "__main__":
    main()
