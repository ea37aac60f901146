"""Prompts with atoms from templates in a TOML file.

    ["coloured counts"]
    prompts = ["{count} {color} {things}"]
    counts = ["two", "four"]
    colors = ["blue", "brown"]
    things = ["cat", "bird"]
    texts = { count = "{count} {things}", color = "{color} {things}", thing = "{things}" }
    siblings = { counts = ["one", "two", "three", "four"] }

{color} stands for one of `colors`, and so on for any name; {color_a} and {color_b} for two different ones.
{things} is {thing} in the plural, unless {count} is "one"; {things_a} depends on {count_a}. Each entry of
`texts` is an atom, whose kind is its name: its wrong texts replace the word by another of the list, or by
another of `siblings`, if there are any.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any

from headwise.benchmarks.prompts.atoms import Atom, AtomPrompt
from headwise.benchmarks.prompts.evaluation import bad_file, filled
from headwise.benchmarks.prompts.nouns import plural

__all__ = ["templated_prompts"]


def templated_prompts(source: str | Path, tables: dict[str, Any]) -> list[AtomPrompt]:
    """The prompts of every template of every table, with all of its words; tables' names are the groups.

    Args:
        source: The name of the file in errors.
        tables: The tables of the file.

    Raises:
        UnreadablePrompts: A table lacks something, or no prompts are listed.
    """
    prompts: list[AtomPrompt] = []
    for group, table in tables.items():
        try:
            for template in table["prompts"]:
                prompts += _from_template(group, table, template)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise bad_file(source, f"[{group}] lacks or misspells {error}") from None
    if not prompts:
        raise bad_file(source, "it has no prompts")
    return prompts


def _from_template(group: str, table: dict[str, Any], template: str) -> Iterator[AtomPrompt]:
    fields = [name for _, name, _, _ in Formatter().parse(template) if name]
    lists = {_slot(name, table): table[_list_of(_slot(name, table))] for name in fields}
    for words in itertools.product(*lists.values()):
        fill = dict(zip(lists, words, strict=True))
        used = [(_list_of(slot), word) for slot, word in fill.items()]
        if len(set(used)) < len(used):
            continue
        prompt = filled(template, _forms(fill))
        right = {filled(text, _forms(fill)) for text in table["texts"].values()}
        atoms = (_atom(table, slot, text, fill, right, fields) for slot, text in table["texts"].items())
        yield AtomPrompt(prompt, tuple(atoms), group)


def _atom(
    table: dict[str, Any], slot: str, text: str, fill: dict[str, str], right: set[str], fields: list[str]
) -> Atom:
    name = _list_of(slot)
    others = table.get("siblings", {}).get(name, table[name])
    alone = len({_slot(field, table) for _, field, _, _ in Formatter().parse(text) if field}) == 1
    # "a cat" is not a wrong text for a dog beside a cat; "a red cat" is one for a blue cat beside a red dog
    present = {word for other, word in fill.items() if _list_of(other) == name} if alone else {fill[slot]}
    wrong = (filled(text, _forms(fill | {slot: word})) for word in others if word not in present)
    texts = dict.fromkeys([filled(text, _forms(fill)), *(each for each in wrong if each not in right)])
    if len(texts) < 2:
        raise ValueError(f"siblings: {fill[slot]!r} needs at least one other word for its wrong texts")
    spelled = slot if slot in fields else _plural_of(slot)
    return Atom(slot.partition("_")[0], _forms(fill)[spelled], tuple(texts))


def _forms(fill: dict[str, str]) -> dict[str, str]:
    """The words of the slots, and each word in the number that the count of its slot requires."""
    numbers = {
        slot.partition("_")[2]: word for slot, word in fill.items() if slot.partition("_")[0] == "count"
    }
    return fill | {
        _plural_of(slot): word if numbers.get(slot.partition("_")[2]) == "one" else plural(word)
        for slot, word in fill.items()
    }


def _slot(field: str, table: dict[str, Any]) -> str:
    """The slot of a field of a template: thing_a for {things_a}."""
    name, _, which = field.partition("_")
    name = name.removesuffix("s") if name in table else name
    return f"{name}_{which}" if which else name


def _list_of(slot: str) -> str:
    return f"{slot.partition('_')[0]}s"


def _plural_of(slot: str) -> str:
    return re.sub(r"^[^_]+", lambda name: f"{name[0]}s", slot)
