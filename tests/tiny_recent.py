"""Tiny randomly initialised pipelines of the most recent transformers, beside those of tiny_families."""

import inspect

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    BriaPipeline,
    BriaTransformer2DModel,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
)

from tiny_families import DECODER, HEADS, flux2_vae, letters, qwen_vae


def qwen3(tokenizer):
    return Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), **DECODER))


def stirred(transformer):
    """What is zero or left empty at initialisation is random, so that nothing is multiplied away."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if not parameter.any() or name.endswith("pad_token"):
                parameter.normal_(std=0.3)
    return transformer


FLUX_LIKE = {"in_channels": 16, "num_layers": 1, "num_single_layers": 2, "axes_dims_rope": (2, 2, 4), **HEADS}
ROPE = (4, 2, 2)


def tiny_bria(parts, scheduler=None):
    tokenizer, t5 = parts.t5()
    pipe = BriaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5,
        vae=parts.vae(shift_factor=0.0609, scaling_factor=1.5),
        transformer=BriaTransformer2DModel(joint_attention_dim=32, **FLUX_LIKE),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
    )
    pipe.default_sample_size = 4
    return pipe


def tiny_ovis(parts, scheduler=None):
    tokenizer = letters()
    pipe = OvisImagePipeline(
        tokenizer=tokenizer,
        text_encoder=qwen3(tokenizer),
        vae=parts.vae(shift_factor=0.0609, scaling_factor=1.5),
        transformer=OvisImageTransformer2DModel(out_channels=16, joint_attention_dim=16, **FLUX_LIKE),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
    )
    pipe.default_sample_size, pipe.system_prompt = 8, "Describe: "
    pipe.user_prompt_begin_id = len(tokenizer("<|im_start|>user\nDescribe: ").input_ids)
    return pipe


def tiny_krea2(parts, scheduler=None):
    tokenizer = letters()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    told = DECODER | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    seen |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=3,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=ROPE,
        **HEADS,
    )
    pipe = diffusers.Krea2Pipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=qwen_vae(),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=told, vision_config=seen)),
        tokenizer=tokenizer,
        transformer=stirred(transformer),
        text_encoder_select_layers=(1, 3),
    )
    pipe.prompt_template_encode_prefix = "<|im_start|>system\nDescribe:<|im_end|>\n<|im_start|>user\n"
    pipe.prompt_template_encode_start_idx = len(tokenizer(pipe.prompt_template_encode_prefix).input_ids)
    pipe.prompt_template_encode_num_suffix_tokens = len(
        tokenizer(pipe.prompt_template_encode_suffix).input_ids
    )
    return pipe


def tiny_lumina2(parts, scheduler=None):
    tokenizer = letters(start=("<sop>",))
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=3,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=ROPE,
        axes_lens=(300, 16, 16),
        cap_feat_dim=16,
    )
    pipe = Lumina2Pipeline(
        transformer=stirred(transformer),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(shift_factor=0.0609, scaling_factor=1.5),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.default_sample_size, pipe.system_prompt = 8, "Paint."
    return pipe


def tiny_zimage(parts, scheduler=None):
    tokenizer = letters("left")
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=ROPE,
        axes_lens=(512, 16, 16),
    )
    return ZImagePipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(shift_factor=0.0609, scaling_factor=1.5),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        transformer=stirred(transformer),
    )


def tiny_ernie(parts, scheduler=None):
    tokenizer = letters("left", ("<sop>",))
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=16,
        num_attention_heads=2,
        num_layers=3,
        ffn_hidden_size=16,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=ROPE,
    )
    return diffusers.ErnieImagePipeline(
        transformer=stirred(transformer),
        vae=flux2_vae(),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
    )


def tiny_lumina(parts, scheduler=None):
    tokenizer = letters("left", ("<sop>",))
    transformer = LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=3,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=16,
    )
    torch.nn.init.normal_(transformer.pad_token)
    return LuminaPipeline(
        transformer=stirred(transformer),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
    )


def tiny_hunyuandit(parts, scheduler=None):
    tokenizer, t5 = parts.t5()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127))]
    pieces += [f"##{piece}" for piece in pieces[5:]]
    bert = BertTokenizer(vocab={piece: n for n, piece in enumerate(pieces)})
    read = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformer = HunyuanDiT2DModel(
        sample_size=4,
        num_layers=4,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        cross_attention_dim=16,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        activation_fn="gelu-approximate",
        **HEADS,
    )
    return HunyuanDiTPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
        ),
        text_encoder=BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=77, **read)),
        tokenizer=bert,
        text_encoder_2=t5,
        tokenizer_2=tokenizer,
        transformer=stirred(transformer),
        scheduler=scheduler or DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


RECENT = {
    "bria": tiny_bria,
    "lumina2": tiny_lumina2,
    "z-image": tiny_zimage,
    "lumina-next": tiny_lumina,
}
if "max_sequence_length" in inspect.signature(OvisImagePipeline.encode_prompt).parameters:
    RECENT["ovis-image"] = tiny_ovis  # in diffusers 0.37 it encodes one text for a whole batch
if hasattr(diffusers, "Krea2Pipeline"):
    RECENT["krea2"] = tiny_krea2
if hasattr(diffusers, "ErnieImagePipeline"):
    RECENT["ernie-image"] = tiny_ernie
