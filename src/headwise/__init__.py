"""Headwise: find which attention heads of a text-to-image model carry which visual concepts.

    relevance = headwise.measure(pipe, headwise.ConceptSet.load("paper34"), pictures=1000, out="runs/sd14")
    relevance.top("Color", 5)

Public names are imported on first use, so that `import headwise` costs nothing.
"""

from importlib import import_module

__version__ = "0.2.0"

_HOME = {
    "HeadMap": "model.heads",
    "Layer": "model.heads",
    "load_pipeline": "model.pipelines",
    "generate": "model.generate",
    "generator_for": "model.generate",
    "Site": "model.sites",
    "Hook": "model.hooks",
    "hooked": "model.attention",
    "ConceptSet": "measuring.concepts",
    "Estimator": "measuring.estimators",
    "Votes": "measuring.votes",
    "Relevance": "measuring.relevance",
    "agreement": "measuring.agreement",
    "null_concepts": "measuring.null_concepts",
    "ConceptProbe": "measuring.probe",
    "measure": "measuring.measure",
    "EffectProbe": "measuring.effect",
    "measure_effect": "measuring.measure_effect",
    "merge": "measuring.merge",
    "AttentionMaps": "measuring.attention_maps",
    "denoise_image": "model.noised_image",
    "region_relevance": "measuring.attention_maps",
    "explain": "measuring.explain",
    "Explanation": "measuring.explanation",
    "RayWorkers": "runs.ray",
    "Crew": "runs.ray",
    "Steer": "steering.steer",
    "strengthen": "steering.steer",
    "adjust": "steering.steer",
    "weaken": "steering.steer",
    "amplify": "steering.dose",
    "contrast": "steering.dose",
    "gate": "steering.dose",
    "compare": "steering.compare",
    "suggest": "steering.suggest",
    "PromptToPrompt": "editing.prompt_to_prompt",
    "edit": "editing.prompt_to_prompt",
    "LocalBlend": "editing.local_blend",
    "invert": "editing.inversion",
    "edit_picture": "editing.inversion",
    "Excite": "editing.attend_and_excite",
    "StrengthenNeglected": "editing.neglected",
    "excite": "editing.attend_and_excite",
    "EvalPrompt": "benchmarks.prompts.evaluation",
    "eval_prompts": "benchmarks.prompts.evaluation",
    "CLIPScorer": "benchmarks.clip_scorer",
    "scoring": "benchmarks.clip_scorer",
    "measure_weakening": "benchmarks.weakening",
    "benchmark_weakening": "benchmarks.weakening_sweeps",
    "benchmark_attribution": "benchmarks.attribution.benchmark",
    "benchmark_polysemy": "benchmarks.polysemy",
    "benchmark_editing": "benchmarks.editing",
    "benchmark_multi_concept": "benchmarks.multi_concept",
    "read_prompts": "benchmarks.prompts.files",
    "benchmark_atoms": "benchmarks.atoms_benchmark",
    "beside": "pictures",
    "HeadwiseError": "errors",
}
_MODULES = {"emoji": "emoji", "plots": "report.plots", "report": "report"}

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"headwise.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'headwise' has no attribute {name!r}")
    return getattr(import_module(f"headwise.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
