"""The command lines' short settings and evaluation prompts."""

FAST = ("--num-inference-steps", 2)

CASES = '[Color]\nprompts = ["a {word} dog", "a {word} cat"]\nwords = ["red", "car"]\n'

SENSES = """[[senses]]
word = "red"
toward = "Color"
away = "Animals"
prompts = ["a red dog", "a red cat"]
reworded = "a dog in red color"
texts = ["a dog in red color", "a red"]
"""
