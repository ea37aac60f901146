"""Chapter 4, steering by a `Relevance`: scaling the attention of a concept's heads to a word.

steer       `strengthen`, `adjust`, `weaken`
dose        `amplify`, `gate`, `contrast`: steering by the effect of heads, in units of effect
word_mixture    a baseline without heads: other words mixed into a word
spelling    steering written in one line of text
suggest     concepts that a word may mean
compare     the same image under several steerings
doctor      a check-up of one pipeline
"""
