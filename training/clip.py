"""Train the two CLIPs of the emoji model: the reader, whose text tower conditions the denoiser, and the judge.

Both match drawings with captions; beside the other captions of the batch, every caption has its own wrong twins with one word
exchanged for a sibling of the same concept, so that fine attributes must be told apart; the judge's twins also swap the colours of
two things or miss a count by one.

    loss = CE(image → captions and twins) + CE(caption → images) + Σ CE(image → word) over the concepts and the places it shows
         [+ 5 · |end, padding − those of the empty caption|² + 5 · max(0, context − 0.15)]

The third term reads the words of each concept, and the thing and the colour that are told first, second, third and fourth, off the
image tower directly, through linear heads that are thrown away: what few captions name is learnt many times sooner.

The *reader* is pooled over the tokens of its words, and the last terms keep its end and padding tokens from carrying the caption,
and each word's tokens from carrying much of the other words: *context* is the mean square by which a token in a caption differs
from the same token encoded alone, in units of the variance over tokens. What a word's own token does not say is not said, so that
heads that attend to words are what a picture depends on, and a concept word encoded alone is what heads meet in prompts. The
*judge* is a plain `CLIPModel`, pooled at its end token, trained from another seed on other draws, with the senses of two-sense
words in balance.
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
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig
from vocabulary import CONCEPTS, RARE

CONTEXT = 0.15  # of a token's variance, at most, comes from the other words of its caption
NAMED = {
    **CONCEPTS,
    **{f"thing {n}": world.NOUNS for n in range(4)},
    **{f"color {n}": (*CONCEPTS["Color"], *RARE["Color"]) for n in range(4)},
}
ROLES = {
    "reader": {
        "seed": 21, "rare": 0.02, "bare": 0.15, "even": 0.0, "more": 0.0, "busy": 0.0, "twins": 1, "near": 0.0, "vision": (128, 4, 4),
    },
    "judge": {
        "seed": 77, "rare": 0.12, "bare": 0.10, "even": 0.3, "more": 0.2, "busy": 0.35, "twins": 2, "near": 0.6,
        "vision": (192, 6, 6),
    },
}  # fmt: skip


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


def encode(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids of captions, padded: captions × 24."""
    return tokenizer(
        captions, padding="max_length", max_length=words.LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def draws(
    name: str, size: int, painter: Painter, number: int
) -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    """What a role trains on in the step of this number: pictures (size × 64 × 64 × 3 bytes), their captions, the captions' wrong twins, and the word shown of each concept (-100: none, or several)."""
    role = ROLES[name]
    rng = random.Random(f"{name} {role['seed']} {number}")
    pictures, captions, twins, shown = [], [], [[] for _ in range(role["twins"])], []
    for _ in range(size):
        scene, caption = world.sample(rng, role["rare"], role["bare"], role["even"], role["more"])
        busier = rng.random() < role["busy"]
        pictures.append(busy.draw_busy(painter, scene, rng) if busier else painter.draw(scene))
        captions.append(caption)
        for twin in twins:
            twin.append(world.caption(world.counterfactual(scene, rng, role["near"]), rng))
        shown.append(_labels(scene))
    return np.stack(pictures), captions, [caption for twin in twins for caption in twin], np.array(shown)


def _labels(scene: world.Scene) -> list[int]:
    true = world.truth(scene)
    words = {c: next(iter(true[c])) for c in CONCEPTS if len(true.get(c, ())) == 1}
    for n, thing in enumerate(scene.things):
        words |= {f"thing {n}": thing.word, f"color {n}": thing.color}
    return [NAMED[c].index(words[c]) if words.get(c) in NAMED[c] else -100 for c in NAMED]


def pooled(model: CLIPModel, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The reader's text embeddings (captions × 128), what end and padding tokens say, and the context in its words (scalars)."""
    end = model.config.text_config.eos_token_id
    words, which = ids.unique(
        return_inverse=True
    )  # each encoded alone; the end token alone is the empty caption
    alone = torch.full((len(words), ids.shape[1]), end, device=ids.device)
    alone[:, 0], alone[:, 1] = model.config.text_config.bos_token_id, words
    lone = model.text_model(input_ids=alone).last_hidden_state
    hidden = model.text_model(input_ids=ids).last_hidden_state
    empty = lone[words == end]
    silent = ids == end
    quiet = (hidden - empty)[silent].float().square().mean()
    spoken = ~silent
    spoken[:, 0] = False
    difference = (hidden - lone[:, 1][which])[spoken].float().square().mean()
    context = difference / lone[:, 1].float().var(0).mean()
    mean = (hidden * spoken[..., None]).sum(1) / spoken.sum(1, keepdim=True).clamp(min=1)
    return model.text_projection(mean), quiet, context


def matched(model: CLIPModel, seen: Tensor, said: Tensor) -> dict[str, Tensor]:
    """The contrastive loss of pictures (B × 128) against captions and their twins (2B or more × 128), and two accuracies."""
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
    """Train one role (or go on), then save the reader's text tower and tokenizer, or the judge whole."""
    parse = loop.arguments(__doc__, minutes=30)
    parse.add_argument("role", choices=ROLES)
    parse.add_argument("--batch", type=int, default=128)
    given = parse.parse_args()
    role, reads = ROLES[given.role], given.role == "reader"
    torch.set_num_threads(given.threads)
    torch.manual_seed(role["seed"])
    folder = given.work / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder) if folder.exists() else words.build(folder)
    model = build(tokenizer, *role["vision"])
    if given.begin and reads:  # the image tower of a reader is not kept
        model.text_model = CLIPTextModel.from_pretrained(given.begin, dtype=torch.float32).base_model
    elif given.begin:
        tokenizer = CLIPTokenizer.from_pretrained(given.begin)
        model = CLIPModel.from_pretrained(given.begin, dtype=torch.float32)
    model = model.to(given.device)
    heads = nn.Linear(role["vision"][0], sum(map(len, NAMED.values()))).to(given.device)
    supply = Supply(partial(draws, given.role, given.batch), given.sprites, given.workers)

    def loss(step: int) -> dict[str, Tensor]:
        x, captions, twins, shown = supply(step)
        x = scaled(x) if reads else _disturbed(scaled(x), step)
        with loop.half(given.device):
            looked = model.vision_model(pixel_values=x.to(given.device)).pooler_output
            seen, read = model.visual_projection(looked), heads(looked)
            ids = encode(tokenizer, captions + twins).to(given.device)
            if reads:
                said, quiet, context = pooled(model, ids)
            else:
                said = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        terms = matched(model, seen.float(), said.float())
        terms["words"] = named(read.float(), torch.from_numpy(shown).to(read.device))
        total = terms["loss"] + terms["words"]
        if reads:
            terms |= {"quiet": quiet, "context": context}
            total = total + 5 * quiet + 5 * F.relu(context - CONTEXT)
        return terms | {"loss": total}

    spent = loop.fit(
        {"clip": model, "heads": heads}, loss, given.work / f"{given.role}.safetensors", given.minutes, 1.5e-3, given.batch, weight_decay=0.05, until=given.until,
    )  # fmt: skip
    (given.work / f"{given.role}.json").write_text(json.dumps(spent))
    (model.text_model if reads else model).eval()
    if reads:
        tower = CLIPTextModel(model.config.text_config)
        tower.load_state_dict(model.text_model.state_dict())
        tower.save_pretrained(given.work / "text_encoder")
    else:
        model.save_pretrained(given.work / "judge")
        tokenizer.save_pretrained(given.work / "judge")


def _disturbed(x: Tensor, step: int) -> Tensor:
    """Half of the judge's pictures a little blurred or noisy, as generated pictures are."""
    generator = torch.Generator().manual_seed(step)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(x), 1, 1, 1, generator=generator)
    share = torch.where(share < 0.5, 0.0, share)
    return x + share * (blurred - x) + 0.05 * share * torch.randn(x.shape, generator=generator)


if __name__ == "__main__":
    main()
