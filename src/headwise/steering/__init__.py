"""Chapter 4, what a `Relevance` is good for: scaling the attention of a concept's heads to a word.

steer       `strengthen`, `adjust`, `weaken`
dose        `amplify`, `gate`, `contrast`: steering by what heads do, in units of effect
word_mixture    other words mixed into a word, without heads: what steering by heads has to beat
spelling    steering written in one line of text
suggest     which concept a word means
compare     the same image under several steerings
doctor      a check-up of one pipeline
"""
