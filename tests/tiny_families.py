"""Tiny randomly initialised pipelines of the newer transformers, beside those of conftest."""

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    GlmConfig,
    GlmModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}
DECODER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>", "<think>", "</think>"]


def letters(side="right", start=()):
    """A tokenizer of single characters, spaces too, that knows the marks of a conversation."""
    pieces = [*SPECIAL, *map(chr, range(32, 127)), "\n", "\u00e9"]
    model = Tokenizer(WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<|endoftext|>"))
    model.pre_tokenizer = Sequence([Split(Regex(r"[\s\S]"), "isolated")])
    if start:
        special = [(piece, pieces.index(piece)) for piece in start]
        model.post_processor = TemplateProcessing(single=" ".join([*start, "$A"]), special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<|endoftext|>", padding_side=side, model_max_length=1024
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.chat_template = CHAT + "<|im_start|>assistant\n<think></think>"
    return tokenizer


def flux2_vae():
    return AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
    )


def qwen_vae():
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def tiny_chroma(parts, scheduler=None):
    tokenizer, t5 = parts.t5()
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=32,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **HEADS,
    )
    pipe = ChromaPipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(shift_factor=0.0609, scaling_factor=1.5),
        text_encoder=t5,
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipe.default_sample_size = 8
    return pipe


def tiny_flux2(parts, scheduler=None):
    tokenizer = letters()
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
        **HEADS,
    )
    pipe = Flux2KleinPipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(),
        text_encoder=Qwen3ForCausalLM(
            Qwen3Config(vocab_size=len(tokenizer), **DECODER | {"num_hidden_layers": 28})
        ),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipe.default_sample_size = 8
    return pipe


def tiny_qwen(parts, scheduler=None):
    tokenizer = letters()
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    told = DECODER | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
        **HEADS,
    )
    pipe = QwenImagePipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=qwen_vae(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=told, vision_config=seen)
        ),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipe.default_sample_size = 8
    pipe.prompt_template_encode = "<|im_start|>system\nDescribe:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    pipe.prompt_template_encode_start_idx = len(
        tokenizer(pipe.prompt_template_encode.partition("{}")[0]).input_ids
    )
    return pipe


def tiny_auraflow(parts, scheduler=None):
    tokenizer, t5 = parts.t5()
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=64,
        **HEADS,
    )
    return AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=t5,
        vae=parts.vae(),
        transformer=transformer,
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
    )


COGVIEW = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "time_embed_dim": 8,
    "condition_dim": 2,
    "pos_embed_max_size": 8,
    "sample_size": 8,
    **HEADS,
}


def tiny_cogview3(parts, scheduler=None):
    tokenizer, t5 = parts.t5()
    return CogView3PlusPipeline(
        tokenizer=tokenizer,
        text_encoder=t5,
        vae=parts.vae(),
        transformer=CogView3PlusTransformer2DModel(text_embed_dim=32, **COGVIEW),
        scheduler=scheduler or CogVideoXDDIMScheduler(),
    )


def tiny_cogview4(parts, scheduler=None):
    tokenizer = letters("left", ("[gMASK]", "<sop>"))
    glm = GlmConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **DECODER)
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=GlmModel(glm),
        vae=parts.vae(),
        transformer=CogView4Transformer2DModel(text_embed_dim=16, rope_axes_dim=(16, 16), **COGVIEW),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
    )


NEWER = {
    "chroma": tiny_chroma,
    "flux2-klein": tiny_flux2,
    "qwen-image": tiny_qwen,
    "auraflow": tiny_auraflow,
    "cogview3+": tiny_cogview3,
    "cogview4": tiny_cogview4,
}
