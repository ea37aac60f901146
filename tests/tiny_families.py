"""Tiny randomly initialised pipelines of the newer transformers, beside those of conftest."""

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

HEADS = {"attention_head_dim": 8, "num_attention_heads": 2}


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


NEWER = {
    "chroma": tiny_chroma,
    "auraflow": tiny_auraflow,
    "cogview3+": tiny_cogview3,
}
