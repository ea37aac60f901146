"""Nodes that only the tests use, loaded by a real ComfyUI: encoders and transformers that no file could hold.

ComfyUI takes the sizes of text encoders and of FLUX.1 to be those of the published models, whatever a file
holds. Here they are made as small as the tests want them.
"""

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy import sdxl_clip
from comfy.sd import CLIP
from comfy.text_encoders import flux, sd3_clip
from safetensors.torch import save_file

FAMILIES = {
    "sdxl": lambda: (sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel),
    "flux": lambda: (flux.FluxTokenizer, flux.flux_clip()),
    "sd3": lambda: (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip()),
}
WIDTHS = {
    "flux": 32,
    "sd3": 4096,
}  # of T5: the denoiser of Stable Diffusion 3 is given 4096, whatever it reads


def random_weights(module):
    """ComfyUI leaves weights as they lie in memory until a file is read."""
    made = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, 0.05, generator=made)
        else:
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)


class SmallClip:
    """The encoders of Stable Diffusion XL, FLUX.1 or Stable Diffusion 3, with few layers."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": (list(FAMILIES),)}}

    def load(self, family):
        sizes = {f"clip_{name}_model_config": {"num_hidden_layers": 3} for name in "lg"}
        if family in WIDTHS:
            t5 = {"d_model": WIDTHS[family], "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 1}
            sizes["t5xxl_model_config"] = t5
        clip = CLIP(comfy.supported_models_base.ClipTarget(*FAMILIES[family]()), model_options=sizes)
        random_weights(clip.cond_stage_model)
        return (clip,)


class SmallFlux:
    """A FLUX.1 of any width, from weights under diffusers' names."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": (folder_paths.get_filename_list("diffusion_models"),)}}

    def load(self, file):
        weights = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("diffusion_models", file))
        weights = comfy.model_detection.convert_diffusers_mmdit(weights, "")
        config = comfy.model_detection.detect_unet_config(weights, "")
        width, text = weights["txt_in.weight"].shape
        dim = weights["double_blocks.0.img_attn.norm.key_norm.scale"].shape[0]
        config |= {"hidden_size": width, "num_heads": width // dim, "context_in_dim": text}
        config |= {"axes_dim": [dim // 4, dim * 3 // 8, dim * 3 // 8]}
        known = comfy.supported_models.FluxSchnell(config)
        known.set_inference_dtype(torch.float32, None)
        model = known.get_model(weights, "")
        model.load_model_weights(weights, "")
        here = comfy.model_management.get_torch_device()
        return (comfy.model_patcher.ModelPatcher(model, load_device=here, offload_device=here),)


class SaveConditioning:
    """Writes what the encoders made of a prompt."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "save", "tests", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def save(self, conditioning):
        [(text, more)] = conditioning
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            "text", folder_paths.get_output_directory()
        )
        file = f"{folder}/{name}_{counter}.safetensors"
        save_file({"text": text.contiguous(), "pooled": more["pooled_output"].contiguous()}, file)
        return {"ui": {"file": [file]}}


NODE_CLASS_MAPPINGS = {"SmallClip": SmallClip, "SmallFlux": SmallFlux, "SaveConditioning": SaveConditioning}
