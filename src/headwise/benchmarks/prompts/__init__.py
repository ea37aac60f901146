"""Evaluation prompts of the benchmarks, with the texts that images are compared with.

evaluation      prompts for weakening, for words with two senses, for several subjects
edit_pairs      source and target prompts; given_pictures: with an image and its masks; pie_bench
masked_words    words of images, with the pixels that show them
atoms           the single statements of a prompt
files           prompts of public benchmarks, with texts (atom_texts, nouns); templates (atom_templates)
"""
