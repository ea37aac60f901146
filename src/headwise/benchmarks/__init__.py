"""Chapter 6, the claims put to the test: each beside controls and baselines, every number with an interval.

prompts/            what is asked for, with the texts and masks that images are compared with
results             what sweeps found, as numbers with intervals, and method_results; needs no torch
sweep               the loop of all benchmarks: what is missing → generate → score → checkpoint
comparison          what those that compare methods share
clip_scorer         what an image shows, by a CLIP model
weakening           ordered weakening of one concept; weakening_sweeps of many concepts or factors
polysemy            words with two senses: how often are they misread?
editing             which method shows the target best, and keeps the source best?
multi_concept       are all subjects of a prompt there?
segmentation        do maps of a word show where it is?
atoms               how much of what a prompt says an image shows
atoms_benchmark     is everything there that a prompt says?
attribution/        which estimator knows what heads do?
questions/          what the paper leaves open
demo                what heads carry and what follows from it, on the built-in model
"""
