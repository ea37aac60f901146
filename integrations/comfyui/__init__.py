"""Headwise in ComfyUI: steer a word by the heads that carry a concept. See README.md beside this file."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
