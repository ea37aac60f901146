"""Every error of Headwise: a noun for the program, a sentence for the person.

The sentence says what came, what was expected, and what to do. `HeadwiseError` catches them all; the command
line prints the sentence and leaves with exit code 2.
"""

__all__ = [
    "BadStrength",
    "HeadMapMismatch",
    "HeadwiseError",
    "HookMisuse",
    "LayerNotReached",
    "MissingExtra",
    "ModelNotLoaded",
    "NotFinite",
    "PictureCountedTwice",
    "PicturesMissing",
    "RunMismatch",
    "UnknownConcept",
    "UnreadableConcepts",
    "UnreadableFile",
    "UnreadablePrompts",
    "UnreadableStudy",
    "UnwritableFolder",
    "VotesMismatch",
    "WordNotInPrompt",
    "WordWithoutTokens",
    "WorkersDied",
]


class HeadwiseError(Exception):
    """Anything that Headwise refuses to do, with the reason and the cure."""


class BadStrength(HeadwiseError):
    """A strength, clamp or window outside its range."""


class HeadMapMismatch(HeadwiseError):
    """Two results, or a result and a model, have different heads."""


class HookMisuse(HeadwiseError):
    """A hook entered twice, returned the wrong thing, or met a door that somebody else had changed."""


class LayerNotReached(HeadwiseError):
    """A layer of the head map never passed through the door, so its hooks never ran."""


class MissingExtra(HeadwiseError):
    """An optional package that is not installed."""


class ModelNotLoaded(HeadwiseError):
    """A name or folder that gave no usable pipeline."""


class NotFinite(HeadwiseError):
    """The denoiser's queries held NaN or infinity."""


class PictureCountedTwice(HeadwiseError):
    """Two votes that both counted the same picture."""


class PicturesMissing(HeadwiseError):
    """Shards that together do not hold every picture."""


class PromptsNotAlike(HeadwiseError):
    """A source and a target prompt share no word, or are the same."""


class RunMismatch(HeadwiseError):
    """A folder that holds another run."""


class UnknownConcept(HeadwiseError):
    """A concept that was not measured, or that the set does not hold."""


class UnreadableConcepts(HeadwiseError):
    """A concept file, or concepts given in Python, that break a rule."""


class UnreadableFile(HeadwiseError):
    """A result file that is missing, truncated, damaged or of another kind."""


class UnreadablePrompts(HeadwiseError):
    """Prompts that cannot be used: none, NULs, not UTF-8."""


class UnreadableStudy(HeadwiseError):
    """A description of a study that is missing or breaks a rule."""


class UnwritableFolder(HeadwiseError):
    """A folder in which nothing can be written."""


class VotesMismatch(HeadwiseError):
    """Votes that cannot be added: other concepts or other settings."""


class WordNotInPrompt(HeadwiseError):
    """A word that the prompt does not hold."""


class WordWithoutTokens(HeadwiseError):
    """A word of which the tokenizer makes nothing."""


class WorkersDied(HeadwiseError):
    """Workers that died one after the other, of the same pictures or before they counted any."""
