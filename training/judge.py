"""Train the judge, a CLIP that says what an image shows.

It matches drawings with captions; beside the other captions of the batch, every caption has two wrong twins of its own, with one word
exchanged for a sibling of the same concept, the colours of two things swapped, or a count missed by one, so that fine attributes must
be told apart:

    loss = CE(image → captions and twins) + CE(caption → images) + Σ CE(image → word) over the concepts and the places it shows

The third term reads the words of each concept, and the thing and the colour that are told first, second, third and fourth, off the
image tower directly, through linear heads that are thrown away: what few captions name is learnt many times sooner.
"""

from __future__ import annotations

import json
import random
from functools import partial

import busy
import loop
import numpy as np
import tokenizer as words
import torch
import torch.nn.functional as F
import world
from autoencoder import scaled
from drawing import Painter
from supply import Supply
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from vocabulary import CONCEPTS, RARE

NAMED = {
    **CONCEPTS,
    **{f"thing {n}": world.NOUNS for n in range(4)},
    **{f"color {n}": (*CONCEPTS["Color"], *RARE["Color"]) for n in range(4)},
}
# Shares of scenes: a two-sense word in its rare sense, one word for a caption, all concepts equally often, several things or a count,
# busy drawings; and of twins that are near.
SCENES = {"rare": 0.12, "bare": 0.10, "even": 0.3, "more": 0.2}
BUSY, TWINS, NEAR = 0.35, 2, 0.6
SEED, VISION = 77, (192, 6, 6)  # width, layers, heads


def build(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int) -> CLIPModel:
    """An untrained CLIP: text tower 192 wide with 4 layers, image tower as given, patches of 8×8 pixels."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=6,
        max_position_embeddings=words.LENGTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, projection_dim=128,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads, image_size=64,
        patch_size=8, projection_dim=128,
    )  # fmt: skip
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)
    )


def draws(size: int, painter: Painter, number: int) -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    """What the step of this number trains on: images (size × 64 × 64 × 3 bytes), their captions, the captions' wrong twins, and the word shown of each concept (-100: none, or several)."""
    rng = random.Random(f"judge {SEED} {number}")
    pictures, captions, twins, shown = [], [], [[] for _ in range(TWINS)], []
    for _ in range(size):
        scene, caption = world.sample(rng, **SCENES)
        busier = rng.random() < BUSY
        pictures.append(busy.draw_busy(painter, scene, rng) if busier else painter.draw(scene))
        captions.append(caption)
        for twin in twins:
            twin.append(world.caption(world.counterfactual(scene, rng, NEAR), rng))
        shown.append(_labels(scene))
    return np.stack(pictures), captions, [caption for twin in twins for caption in twin], np.array(shown)


def _labels(scene: world.Scene) -> list[int]:
    true = world.truth(scene)
    words = {c: next(iter(true[c])) for c in CONCEPTS if len(true.get(c, ())) == 1}
    for n, thing in enumerate(scene.things):
        words |= {f"thing {n}": thing.word, f"color {n}": thing.color}
    return [NAMED[c].index(words[c]) if words.get(c) in NAMED[c] else -100 for c in NAMED]


def matched(model: CLIPModel, seen: Tensor, said: Tensor) -> dict[str, Tensor]:
    """The contrastive loss of images (B × 128) against captions and their twins (2B or more × 128), and two accuracies."""
    scale = model.logit_scale.exp().clamp(max=50)
    logits = scale * F.normalize(seen, dim=-1) @ F.normalize(said, dim=-1).T
    right = torch.arange(len(seen), device=logits.device)
    return {
        "loss": F.cross_entropy(logits, right) + F.cross_entropy(logits[:, : len(seen)].T, right),
        "twin": (logits[right, right] > logits[right, right + len(seen)])
        .float()
        .mean(),  # the first of the twins
        "exact": (logits.argmax(1) == right).float().mean(),
    }


def named(read: Tensor, shown: Tensor) -> Tensor:
    """Cross-entropy of the word read of each concept (B × all words) against the word shown (B × concepts)."""
    answers = read.split([len(w) for w in NAMED.values()], dim=1)
    each = [F.cross_entropy(a, n, reduction="sum") for a, n in zip(answers, shown.T, strict=True)]
    return torch.stack(each).sum() / (shown >= 0).sum()


def main() -> None:
    """Train (or go on), then save the judge with its tokenizer."""
    parse = loop.arguments(__doc__, minutes=95)
    parse.add_argument("--batch", type=int, default=128)
    given = parse.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    folder = given.work / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder) if folder.exists() else words.build(folder)
    model = build(tokenizer, *VISION)
    if given.begin:
        tokenizer = CLIPTokenizer.from_pretrained(given.begin)
        model = CLIPModel.from_pretrained(given.begin, dtype=torch.float32)
    model = model.to(given.device)
    heads = nn.Linear(VISION[0], sum(map(len, NAMED.values()))).to(given.device)
    supply = Supply(partial(draws, given.batch), given.sprites, given.workers)

    def loss(step: int) -> dict[str, Tensor]:
        x, captions, twins, shown = supply(step)
        with loop.half(given.device):
            x = _disturbed(scaled(x), step).to(given.device)
            looked = model.vision_model(pixel_values=x).pooler_output
            seen, read = model.visual_projection(looked), heads(looked)
            ids = words.encode(tokenizer, captions + twins).to(given.device)
            said = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        terms = matched(model, seen.float(), said.float())
        terms["words"] = named(read.float(), torch.from_numpy(shown).to(read.device))
        return terms | {"loss": terms["loss"] + terms["words"]}

    spent = loop.fit(
        {"clip": model, "heads": heads}, loss, given.work / "judge.safetensors", given.minutes, 1.5e-3, given.batch, weight_decay=0.05, until=given.until,
    )  # fmt: skip
    (given.work / "judge.json").write_text(json.dumps(spent))
    model.eval().save_pretrained(given.work / "judge")
    tokenizer.save_pretrained(given.work / "judge")


def _disturbed(x: Tensor, step: int) -> Tensor:
    """Half of the images a little blurred or noisy, as generated images are."""
    generator = torch.Generator().manual_seed(step)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(x), 1, 1, 1, generator=generator)
    share = torch.where(share < 0.5, 0.0, share)
    return x + share * (blurred - x) + 0.05 * share * torch.randn(x.shape, generator=generator)


if __name__ == "__main__":
    main()
