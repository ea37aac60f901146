"""A planted truth: a tiny pipeline in which only known heads can read the words of known concepts.

The text encoder has no context, so that nothing of a word stands at other tokens; the tokens of a concept's
words lie in a plane U of the embedding space, and the values of every head but the known ones are blind to U:

    x = U Uᵀ x        for the words' tokens
    W_V ← W_V (I − U Uᵀ)        in all other heads

Keys are left as they are, so what heads attend to says nothing of what they can read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from conftest import SD1, ddim, tiny_sd
from headwise.model.heads import HeadMap

UNET = SD1 | {
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
PLANE = 2  # dimensions, so that the words of a concept differ in direction too
CONCEPTS = {"Animals": ("dog", "cat"), "Color": ("red",)}
PROMPTS = {
    "Animals": (("a photo of a dog", "a red cat"), ("dog", "cat")),
    "Color": (("a red car", "a vase in red color"), ("red", "red")),
}


@dataclass(frozen=True)
class Planted:
    """The pipeline, and by concept the heads that can read its words."""

    pipe: Any
    heads: dict[str, tuple[int, ...]]

    def known(self, concept):
        return np.isin(np.arange(HeadMap.of(self.pipe).all_heads), self.heads[concept])


def planted_sd(seed=0, known=4, dtype=torch.float64):
    """A tiny Stable Diffusion of 28 heads, of which a few, sampled from the seed, can read each concept."""
    pipe = tiny_sd(UNET, dtype=dtype, scheduler=ddim())
    head_map, sampled = HeadMap.of(pipe), np.random.default_rng(seed)
    planes = _planes(pipe, sampled)
    heads = {
        name: tuple(sorted(sampled.choice(head_map.all_heads, known, replace=False).tolist()))
        for name in CONCEPTS
    }
    _plant_text(pipe, planes)
    for name, plane in planes.items():
        _blind_others(pipe, head_map, heads[name], plane)
    return Planted(pipe, heads)


def auroc(values, known):
    """The chance that a known head has a larger value than another head; ties count half."""
    inside, outside = values[known][:, None], values[~known][None]
    return float(((inside > outside) + 0.5 * (inside == outside)).mean())


def _planes(pipe, sampled):
    """One for each concept, at right angles: what is blind to one reads the other as before."""
    width = pipe.text_encoder.config.hidden_size
    basis = np.linalg.qr(sampled.normal(size=(width, PLANE * len(CONCEPTS))))[0]
    planes = torch.tensor(basis, dtype=pipe.unet.dtype).split(PLANE, 1)
    return dict(zip(CONCEPTS, planes, strict=True))


def _plant_text(pipe, planes):
    def plant(encoder, inputs, kwargs, output):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else inputs[0]
        model = getattr(encoder, "text_model", encoder)
        text = model.final_layer_norm(model.embeddings(input_ids=ids))
        for name, plane in planes.items():
            tokens = pipe.tokenizer(list(CONCEPTS[name]), add_special_tokens=False).input_ids
            of_word = torch.isin(ids, torch.tensor([token for word in tokens for token in word]))
            inside = text @ plane @ plane.T
            inside = inside * (text.norm(dim=-1, keepdim=True) / inside.norm(dim=-1, keepdim=True))
            text = torch.where(of_word[..., None], inside, text)
        output.last_hidden_state = text
        return output

    pipe.text_encoder.register_forward_hook(plant, with_kwargs=True)


def _blind_others(pipe, head_map, known, plane):
    modules = dict(pipe.unet.named_modules())
    for layer, (start, stop) in zip(head_map, head_map.slices, strict=True):
        rows = modules[layer.address].to_v.weight.view(layer.heads, -1, len(plane))  # heads dim width
        with torch.no_grad():
            for head in set(range(start, stop)) - set(known):
                rows[head - start] -= rows[head - start] @ plane @ plane.T
