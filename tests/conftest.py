"""Tiny randomly initialised pipelines, one per architecture, built here: no network, no files."""

import os
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: threads would wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from hypothesis import settings
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from headwise import intervals
from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.cli import commands as cli
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap, denoiser_of
from tiny_families import NEWER
from tiny_recent import RECENT, tiny_hunyuandit

settings.register_profile("busy machine", deadline=None)  # how long an example takes is no law
settings.load_profile("busy machine")

RESAMPLES, intervals.RESAMPLES = intervals.RESAMPLES, 200  # a tenth of the time, and the same arithmetic

# The longest first, so that no process is left alone with one of them (xdist would take large ones first).
LONGEST = ("test_web_browser", "test_ray", "test_workers", "test_attend_and_excite", "test_compatibility")


def pytest_configure(config):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


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


def tiny_vae(latent_channels=4, **options):
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def sentence_pieces():
    """The few words, and all letters, with how likely each is."""
    whole = [(f"▁{word}", -1.0) for word in WHOLE_WORDS]
    return [("▁", -2.0), *whole, *((chr(letter), -5.0) for letter in range(33, 127))]


def tiny_t5():
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = T5Tokenizer(vocab=special + sentence_pieces(), extra_ids=0)
    tokenizer.model_max_length = LENGTH
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return tokenizer, T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes))


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


HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}


def flow():
    return FlowMatchEulerDiscreteScheduler()


def tiny_sd3(dtype=torch.float32, scheduler=None, dual_attention_layers=(), qk_norm=None):
    torch.manual_seed(0)
    clip, (third, t5) = tiny_tokenizer(), tiny_t5()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
        dual_attention_layers=dual_attention_layers,
        qk_norm=qk_norm,
        **HEADS,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=scheduler or flow(),
        vae=tiny_vae(shift_factor=0.0609, scaling_factor=1.5),
        text_encoder=text_encoder(CLIPTextModelWithProjection, clip, 16, 8),
        tokenizer=clip,
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, clip, 16, 8),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=t5,
        tokenizer_3=third,
    )
    return settled(pipe, dtype)


def tiny_flux(dtype=torch.float32, scheduler=None, guidance_embeds=True):
    torch.manual_seed(0)
    clip, (second, t5) = tiny_tokenizer(), tiny_t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
        **HEADS,
    )
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=scheduler or flow(),
        vae=tiny_vae(shift_factor=0.0609, scaling_factor=1.5),
        text_encoder=text_encoder(CLIPTextModel, clip, 16),
        tokenizer=clip,
        text_encoder_2=t5,
        tokenizer_2=second,
    )
    pipe.default_sample_size = 8
    return settled(pipe, dtype)


def tiny_pixart(dtype=torch.float32, scheduler=None):
    torch.manual_seed(0)
    tokenizer, t5 = tiny_t5()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=16,
        caption_channels=32,
        norm_num_groups=4,
        use_additional_conditions=False,
        **HEADS,
    )
    pipe = PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5,
        vae=tiny_vae(),
        transformer=transformer,
        scheduler=scheduler or ddim(),
    )
    return settled(pipe, dtype)


def tiny_sana(dtype=torch.float32, scheduler=None):
    torch.manual_seed(0)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = [*special, "▁", *(chr(letter) for letter in range(33, 127))]
    tokenizer = GemmaTokenizer(vocab={piece: n for n, piece in enumerate(words)}, merges=[])
    begin = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.backend_tokenizer.post_processor = begin
    gemma = Gemma2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=8,
        **HEADS,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.4,
    )
    pipe = SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(gemma),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler or DPMSolverMultistepScheduler(),
    )
    return settled(pipe, dtype)


def settled(pipe, dtype):
    with torch.no_grad():
        for name, parameter in denoiser_of(pipe).named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight", "add_k_proj.weight", "add_q_proj.weight")):
                parameter.mul_(4)  # at random initialisation attention is so flat that all heads vote alike
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # T5 drops out of itself
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


BUILD = {
    "sd1": tiny_sd,
    "sd2": lambda **options: tiny_sd(SD2, **options),
    "sdxl": tiny_sdxl,
}
TRANSFORMERS = {
    "pixart": tiny_pixart,
    "sana": tiny_sana,
    "sd3": tiny_sd3,
    "sd3.5": lambda **options: tiny_sd3(dual_attention_layers=(0,), qk_norm="rms_norm", **options),
    "flux-dev": tiny_flux,
    "flux-schnell": lambda **options: tiny_flux(guidance_embeds=False, **options),
}


def newer(build):
    """A pipeline of tiny_families or tiny_recent, made of the same parts."""

    def make(dtype=torch.float32, **options):
        torch.manual_seed(0)
        return settled(build(SimpleNamespace(t5=tiny_t5, vae=tiny_vae), **options), dtype)

    return make


TRANSFORMERS |= {name: newer(build) for name, build in (NEWER | RECENT).items()}
HUNYUAN = newer(tiny_hunyuandit)  # in which a word has no embedding of its own


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
def all_resamples(monkeypatch):
    """As many resamples as users have, where the width of intervals is tested."""
    monkeypatch.setattr(intervals, "RESAMPLES", RESAMPLES)


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
def workspace(sd, tmp_path, monkeypatch):
    """The working folder, with a tiny model and its relevance in it."""
    sd.save_pretrained(tmp_path / "tiny")
    head_map = HeadMap.of(sd)
    votes = np.random.default_rng(0).integers(1, 50, (2, head_map.all_heads))
    names = ("Color", "Animals")
    settings = {"concepts": [["Color", ["red", "blue"]], ["Animals", ["dog", "cat"]]]}
    made = Relevance.from_votes(votes, names, head_map)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    Relevance(made.values, made.standard_errors, made.split_half, names, head_map, settings).save(
        tmp_path / "runs" / "tiny" / "relevance.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


class StubJudge(CLIPScorer):
    """Sees what the pictures' bytes have it see."""

    def __init__(self):
        pass

    def choose(self, pictures, texts):
        return np.array([int(np.asarray(picture, int).sum()) % 2 for picture in pictures])


@pytest.fixture
def service(sd, tmp_path, monkeypatch):
    """What the page works with: a tiny pipeline and its relevance, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    head_map = HeadMap.of(sd)
    votes = np.random.default_rng(0).integers(1, 50, (2, head_map.all_heads))
    plain = Relevance.from_votes(votes, ("Color", "Animals"), head_map)
    said = {"concepts": [["Color", ["red", "blue"]], ["Animals", ["dog", "cat"]]], "pictures": 4}
    relevance = Relevance(
        plain.values, plain.standard_errors, plain.split_half, plain.concepts, head_map, said
    )
    relevance.save(tmp_path / "relevance.safetensors")
    sd.save_pretrained(tmp_path / "tiny")
    from headwise.web.run_store import RunStore
    from headwise.web.service import Service
    from headwise.web.session import ModelSession

    session = ModelSession("tiny", lambda: sd, relevance=tmp_path / "relevance.safetensors", scorer="emoji")
    session._scorer = StubJudge()
    return Service(session, RunStore(Path("runs")))


@pytest.fixture
def app(service):
    """The page's application at work."""
    from starlette.testclient import TestClient

    from headwise.web.app import make_app
    from headwise.web.security import Rules

    application = make_app(service, Rules(upload=200_000))
    with TestClient(application, base_url="http://127.0.0.1:7860") as client:
        service.session.pipe  # noqa: B018  the model is there
        application.client = client
        yield application


@pytest.fixture(scope="module")
def browser():
    """A Chromium, for the tests of browser_helpers.IN_BROWSER."""
    from browser_helpers import chromium

    with chromium() as launched:
        yield launched


@pytest.fixture
def page(app):
    """A browser."""
    return app.client


@pytest.fixture
def other(app):
    """Another browser."""
    from starlette.testclient import TestClient

    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.fixture
def stub_judge():
    return StubJudge()


def brightness_score(scorer, kind):
    def choice(pictures, cases):
        return np.array([np.asarray(p, float).mean() > 128 for p in pictures], float)

    return choice


@pytest.fixture
def judged(monkeypatch):
    """The CLIP scorer compares mean colours, and a score says whether an image is bright."""
    from helpers import Stub

    monkeypatch.setattr("headwise.benchmarks.clip_scorer.CLIPScorer.load", lambda name: Stub())
    monkeypatch.setattr("headwise.benchmarks.clip_scorer.scoring", brightness_score)
