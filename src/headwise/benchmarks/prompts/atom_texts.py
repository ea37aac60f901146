"""Makes the texts of atoms, which a CLIP model can choose between, from the words in a file.

    kind     text                        words in the wrong texts
    count    three dogs                  one to ten
    color    red dogs, a red dog         ordinary colours
    thing    dogs, a dog                 the other objects in the file
    others   wooden chairs               the other words of this kind in the file

Wrong texts exclude those that are right for another part of the same prompt: for "a dog and a cat", the dog's
wrong texts lack "a cat". Beside a red dog, "a red cat" is still a wrong text for a blue cat.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from headwise.benchmarks.prompts.atoms import Atom, AtomPrompt
from headwise.benchmarks.prompts.nouns import COLORS, NUMBERS, numbered, phrase, plural, same_word
from headwise.model.words import find

__all__ = ["Draft", "DraftPrompt", "atom_prompts", "spelled_in"]

SIBLINGS = 20  # the number of a file's most frequent words to use in wrong texts


class Draft(NamedTuple):
    """An atom before its wrong texts are known.

    Args:
        kind: As in `Atom`.
        value: The word, such as "three", "red" or "dog" (objects in the singular); "" if no text can be made.
        noun: The object that it describes, in the singular; "" for objects themselves.
        many: Whether there are several of the object.
        question, answer, parents: As in `Atom`.
    """

    kind: str
    value: str = ""
    noun: str = ""
    many: bool = False
    question: str | None = None
    answer: str | None = None
    parents: tuple[int, ...] = ()

    def text(self, value: str) -> str:
        """The description with this value."""
        if self.kind == "count":
            return numbered(value, self.noun)
        return phrase(value, self.noun, self.many) if self.noun else phrase("", value, self.many)


class DraftPrompt(NamedTuple):
    """A prompt of a file, with its atoms as the file describes them."""

    prompt: str
    drafts: tuple[Draft, ...]
    group: str


def atom_prompts(
    prompts: Sequence[DraftPrompt], things: Sequence[str] = ()
) -> tuple[list[AtomPrompt], Counter[str]]:
    """The prompts with their texts, and the number of atoms of each kind that are left out for lack of texts.

    Prompts without any atom are left out, and counted as "prompts".

    Args:
        prompts: The prompts of a file.
        things: Objects for wrong texts, in addition to those of the prompts.
    """
    words = {"color": Counter(COLORS), "count": Counter(NUMBERS), "thing": Counter(things)}
    for prompt in prompts:
        for draft in prompt.drafts:
            if draft.value and draft.kind not in ("color", "count"):
                words.setdefault(draft.kind, Counter())[draft.value] += 1
    siblings = {kind: [word for word, _ in counts.most_common(SIBLINGS)] for kind, counts in words.items()}
    with_texts, left_out = [], Counter[str]()
    for prompt in prompts:
        atoms = _atoms(prompt, siblings, left_out)
        if atoms:
            with_texts.append(AtomPrompt(prompt.prompt, atoms, prompt.group))
        else:
            left_out["prompts"] += 1
    return with_texts, left_out


def spelled_in(prompt: str, *spellings: str) -> str | None:
    """The first of these spellings that occurs in the prompt, or None."""
    return next((spelling for spelling in spellings if find(prompt, spelling)), None)


def _atoms(prompt: DraftPrompt, siblings: dict[str, list[str]], left_out: Counter[str]) -> tuple[Atom, ...]:
    right = {draft.text(draft.value) for draft in prompt.drafts if draft.value}
    texts = [_texts(draft, prompt.drafts, siblings, right) for draft in prompt.drafts]
    left_out.update(draft.kind for draft, each in zip(prompt.drafts, texts, strict=True) if len(each) < 2)
    kept = [i for i, each in enumerate(texts) if len(each) > 1]
    atoms = []
    for i in kept:
        draft = prompt.drafts[i]
        word = spelled_in(prompt.prompt, *_spellings(draft))
        parents = tuple(kept.index(j) for j in draft.parents if j in kept)
        atoms.append(Atom(draft.kind, word, texts[i], draft.question, draft.answer, parents))
    return tuple(atoms)


def _spellings(draft: Draft) -> tuple[str, ...]:
    """How prompts may spell the word, most likely first; files form plurals by rule alone, as "benchs"."""
    if draft.kind != "thing":
        return (draft.value,)
    forms = (plural(draft.value), f"{draft.value}s")
    return (*forms, draft.value) if draft.many else (draft.value, *forms)


def _texts(
    draft: Draft, drafts: Sequence[Draft], siblings: dict[str, list[str]], right: set[str]
) -> tuple[str, ...]:
    """The right text, then the wrong ones; empty without a value."""
    if not draft.value:
        return ()
    present = [draft.value, *(other.value for other in drafts if other.kind == "thing" == draft.kind)]
    others = [word for word in siblings[draft.kind] if not any(same_word(word, each) for each in present)]
    wrong = [text for text in map(draft.text, others) if text not in right]
    return (draft.text(draft.value), *dict.fromkeys(wrong))
