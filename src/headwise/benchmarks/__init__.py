"""Chapter 6, the claims put to the test: each beside controls and baselines, every number with an interval.

prompts             evaluation prompts, with the texts pictures are compared with; edit_pairs, masked_words
results             what sweeps found, as numbers with intervals, and method_results; needs no torch
sweep               the loop of all benchmarks: what is missing → generate → score → checkpoint
comparison          what those that compare methods share
clip_scorer         what a picture shows, by a CLIP model
weakening           ordered weakening of one concept; weakening_sweeps of many concepts or factors
polysemy            words with two senses: how often are they misread?
editing             which method shows the target best, and keeps the source best?
multi_concept       are all subjects of a prompt there?
segmentation        do maps of a word show where it is?
atoms               what a prompt says, one thing at a time, and how much of it a picture shows
atoms_benchmark     is everything there that a prompt says?
prompt_files        prompts of public benchmarks, with texts (atom_texts, nouns); templates (atom_templates)
pie_bench           pairs to edit from PIE-Bench
attribution         which estimator knows what heads do? (attribution_…, subsets, partial_correlation)
questions/          what the paper leaves open
demo                what heads carry and what follows from it, on the built-in model
"""
