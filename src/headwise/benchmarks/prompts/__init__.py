"""What the benchmarks ask for: prompts, with the texts that images are compared with.

evaluation      prompts of weakening, of words with two senses, of several subjects
edit_pairs      a source and a target prompt; given_pictures, with an image and its masks; pie_bench
masked_words    words of images, with the pixels that show them
atoms           what a prompt says, one thing at a time
files           prompts of public benchmarks, with texts (atom_texts, nouns); templates (atom_templates)
"""
