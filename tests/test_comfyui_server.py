"""The nodes in a real ComfyUI, over its HTTP API, on small random checkpoints."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from comfyui_server import CHECKOUT, ROUNDING, WHY_NOT, Link, Server, apart, denoised, node, save_relevance
from headwise.model.attention import hooked
from headwise.model.heads import HeadMap
from headwise.model.tokens import token_positions, word_positions
from headwise.steering.steer import strengthen, weaken
from ldm_checkpoint import ldm_weights

pytestmark = [pytest.mark.skipif(CHECKOUT is None, reason=WHY_NOT), pytest.mark.timeout(1800)]

PROMPT, WORD, SEED = "a red vase in the snow", "red", 7
SD1_SCALE = 0.18215  # of the latents that ComfyUI hands out


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("comfyui") / "base")
    yield server
    server.stop()


def round_to_half(module):
    """To what a file of half precision holds."""
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()


def conv_in_attention(name, weight):
    """The first autoencoder attended through convolutions of 1 × 1."""
    is_conv = ".attn_1." in name and weight.ndim == 2
    return weight[..., None, None] if is_conv else weight


@pytest.fixture(scope="module")
def sd1(server):
    """A pipeline in the shape of Stable Diffusion 1.5, all of whose levels are narrow, and its checkpoint."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(320,) * 4, cross_attention_dim=768, attention_head_dim=8
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            eos_token_id=2,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    tokenizer = CLIPTokenizer.from_pretrained(f"{CHECKOUT}/comfy/sd1_tokenizer")
    parts = {"scheduler": DDIMScheduler(), "safety_checker": None, "feature_extractor": None}
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, requires_safety_checker=False, **parts)
    folder = server.folder / "models" / "checkpoints"
    folder.mkdir(parents=True)
    for part in (unet, text_encoder, vae):
        round_to_half(part)
    weights = {name: conv_in_attention(name, weight).half() for name, weight in ldm_weights(pipe).items()}
    save_file(weights, folder / "sd1.safetensors")
    return pipe, save_relevance(server, HeadMap.of(unet), "sd1.safetensors")


def graph(model="loader", steps=1, cfg=1.0, sampler="euler", seed=SEED, **more):
    """An image from a model, with whatever other nodes are given."""
    clip = {"clip": ["loader", 1]}
    return {
        "loader": node("CheckpointLoaderSimple", ckpt_name="sd1.safetensors"),
        "relevance": node("HeadwiseLoadRelevance", file="sd1.safetensors"),
        "positive": node("CLIPTextEncode", text=PROMPT, **clip),
        "negative": node("CLIPTextEncode", text="", **clip),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=Link(model),
            positive=Link("positive"),
            negative=Link("negative"),
            latent_image=Link("latent"),
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler="normal",
            denoise=1.0,
        ),
        "save": node("SaveLatent", samples=Link("sampler"), filename_prefix="latent"),
        **more,
    }


def common(model="loader"):
    return {
        "model": Link(model),
        "clip": ["loader", 1],
        "relevance": Link("relevance"),
        "text": PROMPT,
        "start": 0.0,
        "stop": 1.0,
    }


def strengthened(strength, model="loader"):
    word = {"word": WORD, "occurrence": 0, "concept": "Color", "strength": strength}
    return node("HeadwiseStrengthen", **common(model), **word)


def weakened(heads, model="loader"):
    chosen = {"concept": "Color", "order": "most relevant", "heads": heads, "factor": -2.0}
    return node("HeadwiseWeakenHeads", **common(model), **chosen)


def one_step(pipe, *hooks, seed=SEED):
    """What ComfyUI's KSampler makes in one step of Euler's, in its latents' scale."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(seed))
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad(), hooked(pipe.unet, *hooks):
        text = pipe.text_encoder(ids).last_hidden_state
        epsilon = pipe.unet(noise, torch.tensor([999]), text).sample
    return denoised(noise, epsilon) / SD1_SCALE


def test_the_nodes_are_listed(server):
    listed = {name: info for name, info in server.nodes().items() if name.startswith("Headwise")}
    assert {f"Headwise{name}" for name in ("LoadRelevance", "Strengthen", "Adjust", "WeakenHeads")} <= set(
        listed
    )
    assert all(info["description"] for info in listed.values())


def test_every_steered_head_is_at_its_place(server, sd1):
    """All heads have other factors: one at another's place would be seen, as those of the control are."""
    pipe, relevance = sd1
    steer = strengthen(relevance, token_positions(pipe.tokenizer, PROMPT, WORD), "Color", 3.0)
    assert len(set(steer.factors[0])) > 0.3 * steer.factors.size
    output = server.latents(graph("steered", steered=strengthened(3.0)))
    assert apart(output, one_step(pipe, steer)) < ROUNDING
    for other in (one_step(pipe), one_step(pipe, steer.control("random heads"))):
        assert apart(output, other) > 10 * ROUNDING


def test_weakened_heads_are_those_of_the_relevance(server, sd1):
    pipe, relevance = sd1
    words = word_positions(pipe.tokenizer, PROMPT)
    output = server.latents(graph("weak", weak=weakened(20)))
    steer = weaken(relevance.head_map, relevance.top("Color", 20), words)
    assert apart(output, one_step(pipe, steer)) < ROUNDING < apart(output, one_step(pipe)) / 10


def test_a_clone_leaves_the_model_as_it_was(server, sd1):
    """The seed is another one, or else ComfyUI would hand out what it has made before."""
    steered, plain = (
        server.latents(graph(model, seed=SEED + 1, steered=strengthened(3.0)))
        for model in ("steered", "loader")
    )
    assert apart(plain, one_step(sd1[0], seed=SEED + 1)) < ROUNDING < apart(steered, plain) / 10


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "lcm"])
def test_strength_zero_changes_no_bit(server, sd1, sampler):
    guided = {"steps": 3, "cfg": 7.0, "sampler": sampler}
    plain = server.latents(graph(**guided))
    assert torch.equal(server.latents(graph("steered", steered=strengthened(0.0), **guided)), plain)
    assert not torch.equal(server.latents(graph("steered", steered=strengthened(1.0), **guided)), plain)


def recorded(word, heads):
    """A recording of one step, and the table of what heads attended to."""
    common = {"model": Link("loader"), "clip": ["loader", 1], "relevance": Link("relevance")}
    record = node("HeadwiseRecordAttention", **common, text=PROMPT, word=word, occurrence=0)
    links = {"recording": ["record", 1], "samples": Link("sampler")}
    show = node("HeadwiseShowAttention", **links, concept="Color", heads=heads)
    views = {
        "table": node("PreviewAny", source=["show", 1]),
        "map": node("PreviewImage", images=Link("show")),
    }
    return graph("record", record=record, show=show, **views)


def test_what_heads_attend_to_is_recorded_and_shown(server, sd1):
    """Sampling is as it was, and the table has for every head what the pipeline's own map has."""
    pipe, relevance = sd1
    assert torch.equal(server.latents(recorded(WORD, 5)), server.latents(graph()))
    outputs = server.run(recorded(WORD, relevance.head_map.all_heads))
    rows = [line.split() for line in outputs["table"]["text"][0].splitlines() if line.endswith("]")]
    listed = {address: float(attention) for _, attention, _, address in rows}
    positions, means = list(token_positions(pipe.tokenizer, PROMPT, WORD)), {}

    def note(attend, site, query, key, value):
        maps = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        for head, mean in enumerate(maps[0, :, :, positions].sum(-1).mean(-1).tolist()):
            means[f"{site.address}[{head}]"] = mean
        return attend(query, key, value)

    one_step(pipe, note)
    assert set(listed) == set(means) and len(set(listed.values())) > 2
    assert all(abs(listed[address] - mean) <= 1e-4 for address, mean in means.items())
    (picture,) = outputs["map"]["images"]
    assert picture["type"] == "temp"
