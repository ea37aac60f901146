"""The paper's claims as benchmarks that can say no: beside controls and rivals, numbers with intervals."""

from headwise.benchmarks.editing import EDITING, Editing, benchmark_editing
from headwise.benchmarks.estimators import Estimators, benchmark_estimators
from headwise.benchmarks.multi_concept import COMPOSING, MultiConcept, benchmark_multi_concept
from headwise.benchmarks.polysemy import METHODS, Polysemy, benchmark_polysemy
from headwise.benchmarks.questions import Answer, benchmark_questions
from headwise.benchmarks.scales import ON_TRIAL, Scales, benchmark_scales
from headwise.benchmarks.weakening import FACTORS, benchmark_weakening, eighths, sweep_factors

__all__ = [
    "COMPOSING",
    "EDITING",
    "FACTORS",
    "METHODS",
    "ON_TRIAL",
    "Answer",
    "Editing",
    "Estimators",
    "MultiConcept",
    "Polysemy",
    "Scales",
    "benchmark_editing",
    "benchmark_estimators",
    "benchmark_multi_concept",
    "benchmark_polysemy",
    "benchmark_questions",
    "benchmark_scales",
    "benchmark_weakening",
    "eighths",
    "sweep_factors",
]
