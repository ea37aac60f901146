"""The null control of votes: concepts whose names mean nothing.

In this control every concept samples from the words of all concepts. Heads still prefer some words, but no
concept has words of its own, so every true relevance is 1 and any structure is noise. (Shuffling the words
among the concepts once would not do: a head that prefers "dog" would prefer the concept that received it in
every image.)
"""

from headwise.measuring.concepts import ConceptSet

__all__ = ["null_concepts"]


def null_concepts(concepts: ConceptSet) -> ConceptSet:
    """The null control of a concept set: the same names, each with the words of all concepts.

    With background concepts, the control is `null_concepts(concepts.beside(background))`.
    """
    words = {word.casefold(): word for name in concepts.names for word in concepts.words(name)}
    null = ConceptSet({name: tuple(words.values()) for name in concepts.names})
    return null.marked(concepts.name, concepts.foreground or concepts.names)
