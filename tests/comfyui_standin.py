"""What of ComfyUI the nodes touch, written anew for the tests: its signatures, on tiny things.

A UNet of diffusers stands for ComfyUI's: its text-reading layers get ComfyUI's addresses (by diffusers' own
converter of checkpoints, which the nodes do not know) and call patches as ComfyUI's transformer block does.
"""

import asyncio
import importlib.util
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import nn

from conftest import tiny_tokenizer
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap
from helpers import published

HERE = Path(__file__).parents[1] / "integrations" / "comfyui"
TEXT = "attn2.to_q.weight"
CONCEPTS = ("Color", "Animals")


def addresses(unet):
    """diffusers address → ComfyUI's, for every text-reading layer."""
    number = sum(len(block.resnets) + 1 for block in unet.down_blocks)
    checkpoint = {}
    for place, count in (("input_blocks", number), ("middle_block", 3), ("output_blocks", number)):
        for i in range(count):
            checkpoint[f"model.diffusion_model.{place}.{i}.0.marker"] = f"{place}.{i}"
            for t in range(10):
                middle = "" if place == "middle_block" else ".1"
                address = f"{place}.{i}{middle}.transformer_blocks.{t}.{TEXT}"
                checkpoint[f"model.diffusion_model.{address}"] = address
    converted = convert_ldm_unet_checkpoint(checkpoint, {"layers_per_block": unet.config.layers_per_block})
    mine = [name for name, _ in unet.named_parameters() if name.endswith(TEXT)]
    return {name.removesuffix(".to_q.weight"): converted[name].removesuffix(".to_q.weight") for name in mine}


def optimized_attention(
    q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, transformer_options=None, **kwargs
):
    """Heads stand side by side in the last axis, or apart where `skip_reshape` says so."""
    override = (transformer_options or {}).get("optimized_attention_override")
    if override is not None and not kwargs.get("_inside_attn_wrapper"):
        more = {"mask": mask, "skip_reshape": skip_reshape, "transformer_options": transformer_options}
        return override(optimized_attention, q, k, v, heads, **more, _inside_attn_wrapper=True)
    rows, dim = len(q), q.shape[-1] // heads
    apart = (
        (q, k, v) if skip_reshape else (x.reshape(rows, -1, heads, dim).transpose(1, 2) for x in (q, k, v))
    )
    return F.scaled_dot_product_attention(*apart).transpose(1, 2).flatten(-2)


class TextAttention(nn.Module):
    """A layer of diffusers, run as ComfyUI's transformer block runs its attn2."""

    def __init__(self, layer, block, options):
        super().__init__()
        self.layer, self.block, self.options, self.heads = layer, block, options, layer.heads

    def forward(self, hidden_states, encoder_hidden_states=None, **kwargs):
        given = {name: value for name, value in self.options().items() if not name.startswith("patches")}
        extra_options = given | {"block": self.block[:2], "block_index": self.block[2]}
        extra_options |= {"n_heads": self.heads, "dim_head": None, "attn_precision": None}
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.layer.to_q(hidden_states), self.layer.to_k(context), self.layer.to_v(context)
        replaced = self.options().get("patches_replace", {}).get("attn2", {})
        block = self.block if self.block in replaced else self.block[:2]
        if block in replaced:
            out = replaced[block](q, k, v, extra_options)
        else:
            out = optimized_attention(q, k, v, self.heads, transformer_options=extra_options)
        return self.layer.to_out[0](out)


class UNet(nn.Module):
    """A UNet of diffusers whose text-reading layers are found at ComfyUI's addresses."""

    def __init__(self, unet):
        super().__init__()
        self.options, self.unet = {}, [unet]  # in a list, or else its layers would have two addresses
        for address, name in addresses(unet).items():
            parent, child = address.rsplit(".", 1)
            layer = TextAttention(unet.get_submodule(address), block_in(name), lambda: self.options)
            setattr(unet.get_submodule(parent), child, layer)
            node = self
            for part in name.split(".")[:-1]:
                if not hasattr(node, part):
                    node.add_module(part, nn.Module())
                node = getattr(node, part)
            node.add_module("attn2", layer)

    def forward(self, x, timesteps, context, transformer_options):
        self.options = transformer_options
        return self.unet[0](x, timesteps, context).sample


def block_in(name):
    place, number, transformer = re.match(r"(\w+?)_blocks?\.(\d+).*transformer_blocks\.(\d+)", name).groups()
    return place, 0 if place == "middle" else int(number), int(transformer)


class ModelPatcher:
    """Clones share the model; their options are their own."""

    def __init__(self, unet, model_options=None):
        self.unet, self.model_options = unet, model_options or {"transformer_options": {}}

    def clone(self):
        return ModelPatcher(self.unet, copied(self.model_options))

    def get_model_object(self, name):
        assert name == "diffusion_model"
        return self.unet

    def set_model_attn2_replace(self, patch, block_name, number, transformer_index=None):
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_patch_replace(self, patch, name, block_name, number, transformer_index=None):
        block = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        options = self.model_options["transformer_options"]
        options.setdefault("patches_replace", {}).setdefault(name, {})[block] = patch


def copied(options):
    return {k: copied(v) for k, v in options.items()} if isinstance(options, dict) else options


class Tokenizer:
    """Weights, embeddings and chunks, as ComfyUI's tokenizer hands them out."""

    def __init__(self, tokenizer, length=24, embeddings=None, longest_kept_whole=8, start=1):
        self.tokenizer, self.length, self.embeddings = tokenizer, length, embeddings or {}
        self.kept_whole, self.before = longest_kept_whole, start
        self.pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
        self.start, self.end = tokenizer("")["input_ids"][0], tokenizer("")["input_ids"][-1]

    def untokenize(self, pairs):
        return [(pair, self.pieces[pair[0]]) for pair in pairs]

    def tokenize_with_weights(self, text, return_word_ids=False):
        groups = []
        for part, weight in weighted(text):
            for words in re.split(r"(?:(?<=\s)|^)(embedding:\S+)", part):
                name = words.removeprefix("embedding:")
                if words != name:
                    groups.append([(vector, weight) for vector in self.embeddings[name]])
                elif words.strip():
                    groups.append(
                        [(number, weight) for number in self.tokenizer(words)["input_ids"][self.before : -1]]
                    )
        chunks = self.chunked(groups)
        return chunks if return_word_ids else [[(t, w) for t, w, _ in chunk] for chunk in chunks]

    def chunked(self, groups):
        chunks = [[(self.start, 1.0, 0)]]
        for number, group in enumerate(groups, 1):
            whole = len(group) < self.kept_whole
            while group:
                room = self.length - 1 - len(chunks[-1])
                fits = group if len(group) <= room else [] if whole else group[:room]
                chunks[-1] += [(token, weight, number) for token, weight in fits]
                group = group[len(fits) :]
                if group:
                    chunks.append([(self.start, 1.0, 0)])
        return [chunk + [(self.end, 1.0, 0)] * (self.length - len(chunk)) for chunk in chunks]


def weighted(text):
    """(word:1.2) → word, 1.2; brackets behind a backslash are the text's own."""
    parts = re.split(r"(?<!\\)\(([^()]*?)(?::([\d.]+))?(?<!\\)\)", text)
    for plain, inner, weight in zip(parts[::3], [*parts[1::3], None], [*parts[2::3], None], strict=True):
        yield plain.replace("\\(", "(").replace("\\)", ")"), 1.0
        if inner is not None:
            yield inner, float(weight or 1.1)


class T5Tokenizer(Tokenizer):
    """One chunk of any length, without a start token, filled up with padding."""

    def __init__(self, tokenizer, length=24):
        super().__init__(tokenizer, length, start=0)

    def chunked(self, groups):
        tokens = [
            (token, weight, number) for number, group in enumerate(groups, 1) for token, weight in group
        ]
        tokens.append((self.end, 1.0, 0))
        return [tokens + [(0, 1.0, 0)] * (self.length - len(tokens))]


class Clip:
    """ComfyUI's CLIP, with an encoder's tokenizer by name: l, or l and g, or T5's beside them."""

    def __init__(self, **tokenizers):
        self.tokenizers, first = tokenizers, next(iter(tokenizers.values()))
        self.tokenizer = SimpleNamespace(untokenize=first.untokenize, **tokenizers)

    def tokenize(self, text, return_word_ids=False):
        return {
            name: tokenizer.tokenize_with_weights(text, return_word_ids)
            for name, tokenizer in self.tokenizers.items()
        }


@dataclass
class Schema:
    node_id: str
    display_name: str = ""
    category: str = ""
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    description: str = ""


class Input:
    def __init__(self, id, *, options=None, tooltip=None, default=None, **more):
        self.id, self.options, self.tooltip, self.default, self.more = id, options, tooltip, default, more


class Output:
    def __init__(self, *, display_name=None):
        self.display_name = display_name


def kind(io_type):
    return type(
        io_type,
        (),
        {
            "Input": type("Input", (Input,), {"io_type": io_type}),
            "Output": type("Output", (Output,), {"io_type": io_type}),
        },
    )


class NodeOutput:
    def __init__(self, *args):
        self.result = args


def modules(models):
    """ComfyUI's modules by name, with relevance files in `models`/headwise."""
    names = ("Model", "Clip", "String", "Int", "Float", "Latent", "Image")
    kinds = {name: name.upper() for name in names}
    io = SimpleNamespace(
        Schema=Schema,
        NodeOutput=NodeOutput,
        ComfyNode=type("ComfyNode", (), {}),
        Custom=kind,
        Combo=kind("COMBO"),
        **{name: kind(io_type) for name, io_type in kinds.items()},
    )
    folders = {}
    folder_paths = SimpleNamespace(
        models_dir=str(models),
        add_model_folder_path=lambda name, path: folders.setdefault(name, path),
        get_filename_list=lambda name: sorted(path.name for path in (models / name).glob("*")),
        get_full_path_or_raise=lambda name, file: str((models / name / file).resolve(strict=True)),
    )
    latest = SimpleNamespace(io=io, ComfyExtension=type("ComfyExtension", (), {}))
    attention = SimpleNamespace(optimized_attention=optimized_attention)
    named = {
        "folder_paths": folder_paths,
        "comfy_api.latest": latest,
        "comfy.ldm.modules.attention": attention,
    }
    for package in ("comfy", "comfy.ldm", "comfy.ldm.modules", "comfy_api"):
        named[package] = SimpleNamespace(__path__=[])
    return {name: module_of(name, parts) for name, parts in named.items()}


@contextmanager
def loaded_nodes(models, monkeypatch):
    """The nodes' package, loaded as ComfyUI loads it, with relevance files in `models`/headwise."""
    for name, module in modules(models).items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_headwise", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, package)
    spec.loader.exec_module(package)
    yield package
    for name in [name for name in sys.modules if name.startswith(spec.name + ".")]:
        del sys.modules[name]


def listed(package):
    """The nodes by their names."""
    extension = asyncio.run(package.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def module_of(name, parts):
    module = ModuleType(name)
    module.__dict__.update(vars(parts))
    return module


def batch(conditional, unconditional, order):
    """Rows as ComfyUI stacks them: texts of other lengths are repeated until all are as long."""
    texts = [conditional if kind == 0 else unconditional for kind in order]
    longest = torch.tensor([text.shape[1] for text in texts]).max().item()
    return torch.cat([text.repeat(1, longest // text.shape[1], 1) for text in texts])


def clip(**options):
    return Clip(l=Tokenizer(tiny_tokenizer(), **options))


def relevance_of(head_map, seed=0):
    votes = np.random.default_rng(seed).integers(1, 50, (len(CONCEPTS), head_map.all_heads))
    return Relevance.from_votes(votes, CONCEPTS, head_map)


def effect_of(head_map, seed=0):
    """Relevance by effect, below 0 where a head works against the concept."""
    shape = (len(CONCEPTS), head_map.all_heads)
    values = np.random.default_rng(seed).normal(1, 3, shape)
    values *= head_map.all_heads / values.sum(1, keepdims=True)
    unknown = np.full(shape, np.nan)
    return Relevance(values, unknown, unknown[:, 0], CONCEPTS, head_map, {"by": "effect", "model": "tiny"})


class Recorded(nn.Module):
    """Something with the layers of a head map, at ComfyUI's addresses, that is never run."""

    def __init__(self, name):
        super().__init__()
        unet = published(name)
        self.head_map, self.unet = HeadMap.of(unet), UNet(unet)

    def model(self):
        return ModelPatcher(self.unet)
