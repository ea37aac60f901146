"""Chapter 6, tests of the claims: each against controls and baselines, every number with an interval.

prompts/            evaluation prompts, with the texts and masks that images are compared with
results             results of sweeps as numbers with intervals, also method_results; needs no torch
sweep               the loop of all benchmarks: what is missing → generate → score → checkpoint
comparison          shared code of benchmarks that compare methods
clip_scorer         what an image shows, scored by a CLIP model
weakening           ordered weakening of one concept; weakening_sweeps: of many concepts or factors
polysemy            how often words with two senses are misread
editing             which editing method shows the target best and keeps the source best
given_editing       the same for given images, at equal preservation (trade_off)
multi_concept       whether an image shows all subjects of its prompt
segmentation        whether the attention maps of a word show where it is
atoms               how much of what its prompt says an image shows
atoms_benchmark     whether strengthening words makes images show more of their prompt
attribution/        which estimator predicts best what heads do
questions/          questions that the paper leaves open
demo                what heads carry and what follows from it, on a built-in model
defaults            the concepts, prompts and scorer that go with a model
"""
