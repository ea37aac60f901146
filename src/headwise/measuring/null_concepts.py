"""The null control of votes: concepts whose names mean nothing.

In the control every concept samples from the words of all concepts. Heads still prefer words, but no concept
has any of its own, so in truth every relevance is 1, and any structure that shows is noise. (Dealing the
words out to concepts once would not do: a head that prefers "dog" would then prefer the concept that got it,
in all images alike.)
"""

from headwise.measuring.concepts import ConceptSet

__all__ = ["null_concepts"]


def null_concepts(concepts: ConceptSet) -> ConceptSet:
    """The null control of a concept set: the same names, each with the words of all concepts.

    The control of concepts beside a background is `null_concepts(concepts.beside(background))`.
    """
    words = {word.casefold(): word for name in concepts.names for word in concepts.words(name)}
    null = ConceptSet({name: tuple(words.values()) for name in concepts.names})
    return null.marked(concepts.name, concepts.foreground or concepts.names)
