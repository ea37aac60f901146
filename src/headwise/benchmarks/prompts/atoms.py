"""Atoms: the single statements of a prompt, each of which can be checked in an image.

"Three red dogs" states that there are dogs, that there are three and that they are red. Each atom has its
right description, followed by wrong ones in which sibling words replace its word ("two red dogs").
"""

from collections.abc import Sequence
from typing import NamedTuple

from headwise.benchmarks.prompts.evaluation import sample
from headwise.errors import HeadwiseError

__all__ = ["Atom", "AtomPrompt", "prompts_with"]


class Atom(NamedTuple):
    """A single statement of a prompt.

    Args:
        kind: What it is about: "thing", "color", "count", or another word.
        word: The word of the prompt that states it; None if no single word does.
        texts: Descriptions of an image, the right one first, then wrong ones with sibling words.
        question, answer: The question and its right answer, if a file gives them.
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
        atoms: Its atoms.
        group: The group that results are listed by, such as a file's name for this kind of prompt.
    """

    prompt: str
    atoms: tuple[Atom, ...]
    group: str = "all"

    def words(self, kind: str) -> tuple[str, ...]:
        """The words that state atoms of a kind, each once."""
        return tuple(dict.fromkeys(atom.word for atom in self.atoms if atom.kind == kind and atom.word))


def prompts_with(prompts: Sequence[AtomPrompt], kind: str, count: int | None = None) -> list[AtomPrompt]:
    """The prompts in which a word states an atom of this kind, in their order.

    Args:
        prompts: The prompts.
        kind: A kind of atom.
        count: The maximum number of prompts per group, sampled; None for all.

    Raises:
        HeadwiseError: No prompt has such a word.
    """
    groups: dict[str, list[AtomPrompt]] = {}
    for prompt in prompts:
        if prompt.words(kind):
            groups.setdefault(prompt.group, []).append(prompt)
    if not groups:
        kinds = sorted({atom.kind for prompt in prompts for atom in prompt.atoms if atom.word})
        raise HeadwiseError(
            f"No prompt has a word that states a {kind!r}. Give one of the kinds that they have: "
            f"{', '.join(kinds)}."
        )
    return [
        prompt for group in groups.values() for prompt in (group if count is None else sample(group, count))
    ]
