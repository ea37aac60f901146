"""Atoms: what a prompt says, one thing at a time, each of which an image can be asked about.

"Three red dogs" says that there are dogs, that they are three and that they are red. The right description of
an atom stands among wrong ones, in which sibling words take its place ("two red dogs").
"""

from collections.abc import Sequence
from typing import NamedTuple

from headwise.benchmarks.prompts.evaluation import sample
from headwise.errors import HeadwiseError

__all__ = ["Atom", "AtomPrompt", "prompts_with"]


class Atom(NamedTuple):
    """One thing that a prompt says.

    Args:
        kind: What it is about: "thing", "color", "count", or another word.
        word: The word of the prompt that says it; None where no word does.
        texts: Descriptions of an image, the right one first, then wrong ones with sibling words in place.
        question, answer: The question and its right answer, where a file gives them.
        parents: The numbers of the prompt's atoms that must hold for this one to count.
    """

    kind: str
    word: str | None
    texts: tuple[str, ...]
    question: str | None = None
    answer: str | None = None
    parents: tuple[int, ...] = ()


class AtomPrompt(NamedTuple):
    """A prompt with its atoms.

    Args:
        prompt: The prompt.
        atoms: What it says.
        group: What results are listed by, such as a file's name for this sort of prompt.
    """

    prompt: str
    atoms: tuple[Atom, ...]
    group: str = "all"

    def words(self, kind: str) -> tuple[str, ...]:
        """The words that say atoms of a kind, each once."""
        return tuple(dict.fromkeys(atom.word for atom in self.atoms if atom.kind == kind and atom.word))


def prompts_with(prompts: Sequence[AtomPrompt], kind: str, count: int | None = None) -> list[AtomPrompt]:
    """Those prompts in which a word says an atom of this kind, in their order.

    Args:
        prompts: The prompts.
        kind: A kind of atoms.
        count: The largest number of prompts of each group, a sample; all if None.

    Raises:
        HeadwiseError: No prompt has such a word.
    """
    groups: dict[str, list[AtomPrompt]] = {}
    for prompt in prompts:
        if prompt.words(kind):
            groups.setdefault(prompt.group, []).append(prompt)
    if not groups:
        kinds = sorted({atom.kind for prompt in prompts for atom in prompt.atoms if atom.word})
        raise HeadwiseError(f"No prompt has a word that says a {kind!r}. They say: {', '.join(kinds)}.")
    return [
        prompt for group in groups.values() for prompt in (group if count is None else sample(group, count))
    ]
