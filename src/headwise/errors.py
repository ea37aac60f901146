"""The errors of Headwise: a class for programs, a sentence for people.

The sentence says what was given, what was expected, and what to do. `HeadwiseError` catches them all; the
command line prints the sentence and exits with code 2.
"""

__all__ = [
    "BadStrength", "HeadMapMismatch", "HeadwiseError", "HookMisuse", "LayerNotReached", "MissingExtra",
    "ModelNotLoaded", "NotFinite", "PictureCountedTwice", "PicturesMissing", "PromptsNotAlike", "RunMismatch",
    "UnknownConcept", "UnreadableConcepts", "UnreadableFile", "UnreadablePrompts", "UnreadableStudy",
    "Unsupported", "UnwritableFolder", "VotesMismatch", "WordNotInPrompt", "WordWithoutTokens", "WorkersDied",
]  # fmt: skip


class HeadwiseError(Exception):
    """Base class: anything that Headwise refuses to do, with the reason and the remedy."""


class BadStrength(HeadwiseError):
    """A strength, clamp or window outside its range."""


class HeadMapMismatch(HeadwiseError):
    """Two results, or a result and a model, with different heads."""


class HookMisuse(HeadwiseError):
    """A hook entered twice, a wrong output of a hook, or a layer whose forward other code has replaced."""


class LayerNotReached(HeadwiseError):
    """A layer of the head map whose hooks never ran."""


class MissingExtra(HeadwiseError):
    """An optional package that is not installed."""


class ModelNotLoaded(HeadwiseError):
    """A name or folder that does not hold a usable pipeline."""


class NotFinite(HeadwiseError):
    """Queries of the denoiser that hold NaN or infinity."""


class PictureCountedTwice(HeadwiseError):
    """Two sets of votes that both counted the same image."""


class PicturesMissing(HeadwiseError):
    """Shards that together lack some images."""


class PromptsNotAlike(HeadwiseError):
    """A source and a target prompt that share no word, or are identical."""


class RunMismatch(HeadwiseError):
    """A folder that holds a different run."""


class UnknownConcept(HeadwiseError):
    """A concept that was not measured, or that is not in the set."""


class UnreadableConcepts(HeadwiseError):
    """Concepts, from a file or from Python, that break a rule."""


class UnreadableFile(HeadwiseError):
    """A result file that is missing, truncated, damaged or of another kind."""


class UnreadablePrompts(HeadwiseError):
    """Prompts that cannot be used: an empty list, NUL characters, text that is not UTF-8."""


class UnreadableStudy(HeadwiseError):
    """A description of a study that is missing or breaks a rule."""


class Unsupported(HeadwiseError):
    """A method that does not work on this kind of model."""


class UnwritableFolder(HeadwiseError):
    """A folder in which nothing can be written."""


class VotesMismatch(HeadwiseError):
    """Votes that cannot be added: their concepts or settings differ."""


class WordNotInPrompt(HeadwiseError):
    """A word that is not in the prompt."""


class WordWithoutTokens(HeadwiseError):
    """A word for which the tokenizer produces no token."""


class WorkersDied(HeadwiseError):
    """Workers that died one after another, at the same images or before they counted any."""
