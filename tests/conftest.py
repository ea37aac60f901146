"""Tiny randomly initialised pipelines, one per architecture, built here: no network, no files."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from headwise import cli
from headwise.concepts import ConceptSet
from headwise.heads import HeadMap
from headwise.relevance import Relevance

WHOLE_WORDS = ("dog", "cat", "red", "a", "of", "photo", "vase", "in", "color", "car")  # one token each
LENGTH = 24


def tiny_tokenizer():
    """A CLIP tokenizer that knows a few words whole and spells out all others."""
    letters = sorted(ByteLevel.alphabet())
    start, end = "<|startoftext|>", "<|endoftext|>"
    merges, pieces = [], [start, end, *letters, *(letter + "</w>" for letter in letters)]
    for word in WHOLE_WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if tuple(parts[:2]) not in merges:
                merges.append(tuple(parts[:2]))
            parts[:2] = ["".join(parts[:2])]
            pieces.append(parts[0])
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def text_encoder(kind, tokenizer, width, projection=16):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=projection,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config)


def tiny_vae():
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


SD1 = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SD2 = SD1 | {
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
SDXL = SD2 | {
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16 + 6 * 4,
}


def pndm():
    return PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear")


def ddim():
    return DDIMScheduler(steps_offset=1, clip_sample=False, beta_schedule="scaled_linear")


def tiny_sd(unet=SD1, dtype=torch.float32, scheduler=None):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder(CLIPTextModel, tokenizer, 32),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet),
        scheduler=scheduler or pndm(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return settled(pipe, dtype)


def tiny_sdxl(dtype=torch.float32, scheduler=None):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder(CLIPTextModel, tokenizer, 32),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, tokenizer, 16),
        tokenizer=tokenizer,
        tokenizer_2=tiny_tokenizer(),
        unet=UNet2DConditionModel(**SDXL),
        scheduler=scheduler or ddim(),
        add_watermarker=False,
    )
    return settled(pipe, dtype)


def settled(pipe, dtype):
    with torch.no_grad():
        for name, parameter in pipe.unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                parameter.mul_(4)  # at random initialisation attention is so flat that all heads vote alike
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


BUILD = {
    "sd1": tiny_sd,
    "sd2": lambda **options: tiny_sd(SD2, **options),
    "sdxl": tiny_sdxl,
}


@pytest.fixture(params=BUILD)
def pipe(request):
    """A pipeline of every architecture, float32."""
    return BUILD[request.param]()


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def exact_pipe(request):
    """The same in float64, where near-ties of votes do not happen."""
    return BUILD[request.param](dtype=torch.float64)


@pytest.fixture
def sd():
    """The SD 1.x-shaped one, float32."""
    return tiny_sd()


@pytest.fixture
def concepts():
    """Three concepts, words of one and of several tokens, and one word in two concepts."""
    return ConceptSet(
        {
            "Animals": ["dog", "cat", "frog"],
            "Color": ["red", "orange"],
            "Food": ["Orange", "pie", "cake", "egg"],
        }
    )


@pytest.fixture
def run(capfd):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return left.value.code or 0, out, err

    return run


@pytest.fixture
def desk(sd, tmp_path, monkeypatch):
    """A model and its relevance, in the folder one works in."""
    sd.save_pretrained(tmp_path / "tiny")
    head_map = HeadMap.of(sd)
    votes = np.random.default_rng(0).integers(1, 50, (2, head_map.all_heads))
    names = ("Color", "Animals")
    settings = {"concepts": [["Color", ["red"]], ["Animals", ["dog", "cat"]]]}
    made = Relevance.from_votes(votes, names, head_map)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    Relevance(made.values, made.standard_errors, made.split_half, names, head_map, settings).save(
        tmp_path / "runs" / "tiny" / "relevance.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path
