"""Helpers that several test files share."""

import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.prompts.evaluation import EvalPrompt, MultiSubjectPrompt, PolysemyPrompt
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.measuring.votes import BLOCKS, Votes
from headwise.model.families import family_of
from headwise.model.heads import HeadMap, Layer, denoiser_of

HEAVY = ("matplotlib", "gradio", "ray", "diffusers", "transformers", "torch", "jinja2", "typer", "fastapi")
NAMES = ("Color", "Animals", "Food")
PATIENCE = float(os.environ.get("HEADWISE_TEST_PATIENCE", "120"))  # seconds; more on a busy machine


def wait(condition):
    """Wait until something is true."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)


def relevance_for(pipe, seed=0):
    head_map = HeadMap.of(pipe)
    votes = np.random.default_rng(seed).integers(1, 50, (len(NAMES), head_map.all_heads))
    return Relevance.from_votes(votes, NAMES, head_map)


def call(pipe, prompt="a red dog", **options):
    options = {"num_inference_steps": 3, "output_type": "latent"} | options
    return pipe(prompt, generator=torch.Generator().manual_seed(1), **options).images


HEADS = HeadMap((Layer("down_blocks.0.attn2", 2), Layer("mid_block.attn2", 3)))


CONCEPTS = ConceptSet({"Color": ["red"], "Animals": ["dog"], "Plants": ["tree"]})


SETTINGS = {"model": "tiny", "seed": 0}


def counted(numbers, seed=0, steps=2):
    """Votes of these images, whose winners depend on the image's number alone."""
    winners = [np.random.default_rng([seed, i]).integers(0, 3, (steps, HEADS.all_heads)) for i in numbers]
    stacked = np.array(winners, int).reshape(len(winners), steps, 1, HEADS.all_heads)
    return Votes.of_pictures(stacked, list(numbers), HEADS, CONCEPTS, SETTINGS)


SHORT = {"prompts": ["a dog", "a red car"], "num_inference_steps": 2, "beside": None, "progress": False}


def votes_of(folder):
    return (folder / "votes.safetensors").read_bytes()


def sd_map():
    """SD 1.x: 16 layers of 8."""
    down = [(b, a) for b in range(3) for a in range(2)]
    up = [(b, a) for b in (1, 2, 3) for a in range(3)]
    layers = [*(f"down_blocks.{b}.attentions.{a}" for b, a in down), "mid_block.attentions.0"]
    layers += [f"up_blocks.{b}.attentions.{a}" for b, a in up]
    return HeadMap(tuple(Layer(f"{layer}.transformer_blocks.0.attn2", 8) for layer in layers))


def votes_on(head_map, seed=0):
    concepts = ConceptSet({name: ["word"] for name in ("Animals", "Color", "Time <of> Day", "Material")})
    drawn = np.random.default_rng(seed)
    taste = drawn.gamma(0.5, size=(head_map.all_heads, len(concepts)))
    blocks = drawn.poisson(20 * taste, size=(BLOCKS, *taste.shape)).astype(np.int64)
    return Votes(blocks.sum(0)[None], blocks, ((0, 64),), head_map, concepts, {"model": "drawn"})


SENSES = [
    PolysemyPrompt(
        "red", "Color", "Food", EvalPrompt("a red dog", ("a dog in red color", "a red")), "a dog in red color"
    ),
    PolysemyPrompt(
        "vase", "Animals", "Food", EvalPrompt("a vase dog", ("a vase dog", "a vase")), "a dog of vase"
    ),
]


class Bright:
    """A judge that sees the first text in bright images."""

    def __init__(self):
        self.looked = 0

    def __call__(self, pictures, cases):
        self.looked += len(pictures)
        return np.array([np.asarray(p, float).mean() > 128 for p in pictures], float)


BOX = (0.25, 0.25, 0.75, 0.75)


ORANGE = ("a orange dog", "a red dog")


PAIRS = [
    EditPair("Color", "a red dog", ORANGE[0], "orange", ORANGE, ("a dog", "a cat"), BOX),
    EditPair(
        "Animals", "a dog on a vase", "a cat on a vase", "cat", ("a cat", "a dog"), ("a vase", "a"), BOX, True
    ),
    EditPair("Color", "a red vase", "a lavender vase", "lavender", ("a lavender vase",), ("a vase",)),
]


BOTH = {"dog": "Animals", "cat": "Animals"}


SEVERAL = [
    MultiSubjectPrompt("type1", "a dog and a cat", ("a dog", "a cat"), ("dog", "cat"), BOTH),
    MultiSubjectPrompt("type2", "a red dog and a cat", ("a red dog", "a cat"), ("dog", "cat"), BOTH),
]


class Stub(CLIPScorer):
    """A scorer of mean colours."""

    def __init__(self):
        self.looked = 0
        self.model = torch.nn.Module()
        self.model.logit_scale = torch.tensor(3.0)  # which probabilities ask for

    def embed_images(self, pictures):
        self.looked += len(pictures)
        means = torch.tensor(np.array([np.asarray(p.convert("RGB"), float).mean((0, 1)) for p in pictures]))
        return torch.nn.functional.normalize(means.float() + 1, dim=-1)

    def embed_texts(self, texts):
        seeds = [sum(map(ord, text)) for text in texts]
        made = torch.stack([torch.rand(3, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return torch.nn.functional.normalize(made, dim=-1)


def text(words):
    return Stub().embed_texts([words])[0].double().numpy()


STEM = "category_vectors_epoch_1_to_1_neg_prompt_False_merged_340_final_text_descriptions"


SD1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}


SD2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}


SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


PUBLISHED = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}


def published(name):
    with torch.device("meta"):
        return UNet2DConditionModel(**PUBLISHED[name])


ROOT = Path(__file__).parents[1]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def loaded(script, heavy=HEAVY):
    """Which heavy packages a fresh Python has loaded after a script."""
    script += f"\nimport sys; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def size_of(pipe):
    """The size to call a tiny pipeline with, where its own is that of the large model."""
    known = getattr(pipe.unet if hasattr(pipe, "unet") else pipe.transformer, "config", {})
    own = known.get("sample_size") or getattr(pipe, "default_sample_size", None)
    return {} if own else {"height": 16, "width": 16}


class Explicit:
    """Attention by its maps, changed at one layer by `change(maps, layer)`."""

    def __init__(self, monkeypatch, change):
        self.change, self.layer, self.fused = change, None, F.scaled_dot_product_attention
        monkeypatch.setattr(F, "scaled_dot_product_attention", self)

    def watch(self, pipe, refiners=False):
        modules = dict(denoiser_of(pipe).named_modules())
        watched = [(layer.address, index) for index, layer in enumerate(HeadMap.of(pipe))]
        if refiners:
            family = family_of(denoiser_of(pipe))
            watched += [(address, "refiner") for address in family.refiners_among(modules)]
        for address, which in watched:
            modules[address].register_forward_pre_hook(lambda *_, n=which: setattr(self, "layer", n))
            modules[address].register_forward_hook(lambda *_: setattr(self, "layer", None))

    def __call__(self, query, key, value, attn_mask=None, **options):
        if self.layer is None:
            return self.fused(query, key, value, attn_mask=attn_mask, **options)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self.change(scores, self.layer, query, key, value)
