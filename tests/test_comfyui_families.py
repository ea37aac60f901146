"""The nodes on SDXL, FLUX.1 and Stable Diffusion 3, with random weights, in a real ComfyUI over HTTP."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from comfyui_server import CHECKOUT, ROUNDING, WHY_NOT, Link, Server, apart, denoised, node, save_relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.tokens import token_positions
from headwise.steering.steer import strengthen
from helpers import SDXL
from ldm_checkpoint import unet_weights

pytestmark = [pytest.mark.skipif(CHECKOUT is None, reason=WHY_NOT), pytest.mark.timeout(1800)]

PROMPT, WORD, SEED, STRENGTH = "a reddish vase in the snow, lavender", "lavender", 7, 6.0
SIZE = 8  # of the latents


def small_sdxl():
    """All blocks of SDXL, by which ComfyUI recognises it, as narrow as the first: 70 layers of 5 heads."""
    return UNet2DConditionModel(
        **SDXL | {"sample_size": SIZE, "block_out_channels": (320,) * 3, "attention_head_dim": (5,) * 3}
    )


def small_flux():
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=768,
        guidance_embeds=False,
        axes_dims_rope=(4, 6, 6),
    )


def small_sd3():
    """As Stable Diffusion 3.5: queries are normalised, and pixels of the first block attend once more."""
    return SD3Transformer2DModel(
        sample_size=SIZE,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=4096,
        caption_projection_dim=192,
        pooled_projection_dim=2048,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )


def sdxl_step(unet, noise, text, pooled):
    """The UNet is also told the height and width of an image, where it was cropped, and the sides to make."""
    sides = torch.tensor([[8.0 * SIZE, 8.0 * SIZE, 0, 0, 8.0 * SIZE, 8.0 * SIZE]])
    given = {"text_embeds": pooled, "time_ids": sides}
    return denoised(noise, unet(noise, torch.tensor([999]), text, added_cond_kwargs=given).sample)


def flux_step(transformer, noise, text, pooled):
    """Latents are packed 2 × 2, and every pixel has its place."""
    half = SIZE // 2
    packed = noise.view(1, 16, half, 2, half, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, half * half, 64)
    places = torch.zeros(half, half, 3)
    places[..., 1], places[..., 2] = torch.arange(half)[:, None], torch.arange(half)[None]
    ids = {"img_ids": places.view(-1, 3), "txt_ids": torch.zeros(text.shape[1], 3)}
    given = {"encoder_hidden_states": text, "pooled_projections": pooled, "timestep": torch.ones(1)}
    out = transformer(packed, **given, **ids).sample
    return noise - out.view(1, half, half, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(noise.shape)


def sd3_step(transformer, noise, text, pooled):
    given = {"encoder_hidden_states": text, "pooled_projections": pooled}
    return noise - transformer(noise, timestep=torch.tensor([1000.0]), **given).sample


def tokenizer(name):
    return AutoTokenizer.from_pretrained(f"{CHECKOUT}/comfy/{name}")


def clip_positions():
    return token_positions(tokenizer("sd1_tokenizer"), PROMPT, WORD)


def flux_positions():
    return token_positions(tokenizer("text_encoders/t5_tokenizer"), PROMPT, WORD)


def sd3_positions():
    return clip_positions() + tuple(77 + position for position in flux_positions())


class Family(NamedTuple):
    """How a family's denoisers are made, called, and known to ComfyUI.

    Args:
        make: Makes a small denoiser.
        step: What a sampler's one step makes of noise, from the denoiser, the noise and what it reads.
        positions: The positions of the word's tokens.
        scale, shift: Those of ComfyUI's latents.
        channels: The channels of the latents.
        weights: The weights of a denoiser under the names of ComfyUI's files.
        loader: The node that loads them.
    """

    make: Callable
    step: Callable
    positions: Callable
    scale: float
    shift: float = 0.0
    channels: int = 16
    weights: Callable = lambda denoiser: denoiser.state_dict()
    loader: str = "UNETLoader"


FAMILIES = {
    "sdxl": Family(small_sdxl, sdxl_step, clip_positions, 0.13025, channels=4, weights=unet_weights),
    "flux": Family(small_flux, flux_step, flux_positions, 0.3611, 0.1159, loader="SmallFlux"),
    "sd3": Family(small_sd3, sd3_step, sd3_positions, 1.5305, 0.0609),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("comfyui") / "base", "comfyui_nodes")
    yield server
    server.stop()


class Model:
    """A denoiser with random weights, in ComfyUI and here."""

    def __init__(self, server, family):
        self.server, self.family, self.known = server, family, FAMILIES[family]
        torch.manual_seed(0)
        self.denoiser = self.known.make().eval().requires_grad_(False)
        for weight in self.denoiser.parameters():
            weight.data += 0.02 * torch.randn_like(weight)  # gates begin at 0, which would hide every layer
        folder = server.folder / "models" / "diffusion_models"
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.contiguous() for name, weight in self.known.weights(self.denoiser).items()}
        save_file(weights, folder / f"{family}.safetensors")
        self.relevance = save_relevance(server, HeadMap.of(self.denoiser), f"{family}.safetensors")
        self.positions = self.known.positions()
        (file,) = server.run(self.graph(save=node("SaveConditioning", conditioning=Link("positive"))))[
            "save"
        ]["file"]
        self.text = load_file(file)

    def graph(self, model="loader", **more):
        file = f"{self.family}.safetensors"
        known = self.known.loader == "UNETLoader"
        given = {"unet_name": file, "weight_dtype": "default"} if known else {"file": file}
        prompts = {"positive": Link("positive"), "negative": Link("positive")}
        settings = {"seed": SEED, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
        start = {"latent_image": Link("latent"), "denoise": 1.0}
        return {
            "loader": node(self.known.loader, **given),
            "clip": node("SmallClip", family=self.family),
            "relevance": node("HeadwiseLoadRelevance", file=file),
            "positive": node("CLIPTextEncode", text=PROMPT, clip=Link("clip")),
            "latent": node("EmptySD3LatentImage", width=8 * SIZE, height=8 * SIZE, batch_size=1),
            "sampler": node("KSampler", model=Link(model), **prompts, **settings, **start),
            "save": node("SaveLatent", samples=Link("sampler"), filename_prefix="latent"),
        } | more

    def strengthened(self, strength):
        common = {
            "model": Link("loader"),
            "clip": Link("clip"),
            "relevance": Link("relevance"),
            "text": PROMPT,
        }
        word = {"word": WORD, "occurrence": 0, "concept": "Color", "strength": strength}
        return node("HeadwiseStrengthen", **common, **word, start=0.0, stop=1.0)

    def steered(self, strength):
        return self.server.latents(self.graph("steered", steered=self.strengthened(strength)))

    def one_step(self, *hooks):
        """What ComfyUI's KSampler makes of noise in one step of Euler's, as the latents that it saves."""
        noise = torch.randn(1, self.known.channels, SIZE, SIZE, generator=torch.manual_seed(SEED))
        with torch.no_grad(), hooked(self.denoiser, *hooks):
            latents = self.known.step(self.denoiser, noise, self.text["text"], self.text["pooled"])
        return latents / self.known.scale + self.known.shift


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, server):
    return Model(server, request.param)


def turned(steer, layer):
    """With the factors of one layer's heads one place further."""
    (start, stop), factors = steer.head_map.slices[layer], steer.factors.copy()
    factors[:, start:stop] = np.roll(factors[:, start:stop], 1, 1)
    return replace(steer, factors=factors)


def test_every_steered_head_is_at_its_place(model):
    """Heads have other factors: one layer's heads at each other's places would be seen, as the control is."""
    steer = strengthen(model.relevance, model.positions, "Color", STRENGTH)
    output = model.steered(STRENGTH)
    assert apart(output, model.one_step(steer)) < ROUNDING
    elsewhere = strengthen(model.relevance, tuple(p + 1 for p in model.positions), "Color", STRENGTH)
    layers = (0, len(steer.head_map) // 2, len(steer.head_map) - 1)
    others = [steer.control("random heads"), elsewhere, *(turned(steer, layer) for layer in layers)]
    for other in (model.one_step(), *map(model.one_step, others)):
        assert apart(output, other) > 10 * ROUNDING


def test_strength_zero_changes_no_bit_and_a_clone_leaves_the_model_as_it_was(model):
    assert torch.equal(model.steered(0.0), model.server.latents(model.graph()))
    assert apart(model.server.latents(model.graph()), model.one_step()) < ROUNDING
