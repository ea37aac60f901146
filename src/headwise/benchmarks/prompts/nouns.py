"""English nouns, singular and plural, for the texts of atoms.

    numbered("three", "dog")   three dogs        phrase("red", "dog", many=False)   a red dog
    singular("mice")           mouse             phrase("", "owl", many=False)      an owl

Plurals follow rules, with a list of common exceptions.
"""

import re

__all__ = [
    "COLORS", "COMMON_THINGS", "NUMBERS", "numbered", "phrase", "plural", "same_word", "singular",
    "with_articles",
]  # fmt: skip

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
COMMON_THINGS = ("person", "car", "tree", "house", "chair", "cup")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice",
    "goose": "geese", "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "wolf": "wolves",
    "loaf": "loaves", "shelf": "shelves", "scarf": "scarves", "bus": "buses", "cactus": "cacti",
    "octopus": "octopuses", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes",
    "cookie": "cookies", "movie": "movies", "tie": "ties", "pie": "pies", "brownie": "brownies",
}  # fmt: skip
_SINGULARS = {many: one for one, many in _PLURALS.items()}
_NO_ARTICLE = frozenset(
    "broccoli scissors skis jeans shorts pants socks sunglasses glasses headphones grapes pliers eyes".split()
)
_UNCHANGED = _NO_ARTICLE | {"sheep", "fish", "goldfish", "deer", "shrimp", "aircraft"}
_SPELLINGS = {"grey": "gray", "golden": "gold", "wood": "wooden"}


def plural(noun: str) -> str:
    """The plural of a noun in the singular; the last word changes: "teddy bear" gives "teddy bears"."""
    before, last = _last_word(noun)
    if last in _UNCHANGED:
        return noun
    if last in _PLURALS:
        return before + _PLURALS[last]
    if re.search(r"(s|x|z|ch|sh)$", last):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search(r"[^aeiou]y$", last) else f"{noun}s"


def singular(noun: str) -> str:
    """The singular of a noun in the plural; a singular noun that does not end in s stays unchanged."""
    before, last = _last_word(noun)
    if last in _UNCHANGED or last in _PLURALS:
        return noun
    if last in _SINGULARS:
        return before + _SINGULARS[last]
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if last.endswith(ending) and len(last) > len(ending) + 1:
            return noun.removesuffix(ending) + instead
    return noun if last.endswith(("ss", "us", "is")) else noun.removesuffix("s")


def numbered(number: str, noun: str) -> str:
    """A number and a noun: "one dog", "three dogs"."""
    return f"{number} {noun if number == 'one' else plural(noun)}"


def phrase(adjective: str, noun: str, many: bool) -> str:
    """A noun phrase: "a red dog", "red dogs", "an owl"; without an article if the noun has no singular."""
    words = f"{adjective} {plural(noun) if many else noun}".strip()
    return words if many or _last_word(noun)[1] in _NO_ARTICLE else with_articles(f"a {words}")


def with_articles(text: str) -> str:
    """The text with "an" in place of "a" before vowels."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def same_word(a: str, b: str) -> bool:
    """Whether two words are the same, apart from case and spelling variants."""
    a, b = (_SPELLINGS.get(word.casefold(), word.casefold()) for word in (a, b))
    return a == b


def _last_word(noun: str) -> tuple[str, str]:
    """The part of a noun phrase before its last word, and the last word."""
    start = noun.rfind(" ") + 1
    return noun[:start], noun[start:].casefold()
