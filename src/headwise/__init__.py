"""Headwise: which attention heads of a text-to-image model carry which visual concept.

    relevance = headwise.measure(pipe, headwise.ConceptSet.load("paper34"), pictures=1000, out="runs/sd14")
    relevance.top("Color", 5)

The public names are imported when they are first used, so that `import headwise` costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "HeadMap": "heads",
    "Layer": "heads",
    "Site": "attention",
    "hooked": "attention",
    "ConceptSet": "concepts",
    "Votes": "relevance",
    "Relevance": "relevance",
    "ConceptProbe": "probe",
    "measure": "probe",
    "Estimator": "estimators",
    "AttentionMaps": "attention_maps",
    "Steer": "steer",
    "strengthen": "steer",
    "adjust": "steer",
    "weaken": "steer",
    "PromptToPrompt": "prompt_to_prompt",
    "LocalBlend": "blend",
    "edit": "prompt_to_prompt",
    "invert": "inversion",
    "edit_picture": "inversion",
    "Excite": "attend_and_excite",
    "excite": "attend_and_excite",
    "compare": "comparison",
    "suggest": "suggestion",
    "Crew": "cluster",
    "merge": "merging",
    "load_pipeline": "pipelines",
    "generator_for": "generate",
    "HeadwiseError": "errors",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'headwise' has no attribute {name!r}")
    return getattr(import_module(f"headwise.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
