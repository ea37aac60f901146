"""Chapter 3, from a pipeline to a `Relevance`: which heads carry which concept, and how certain that is.

concepts, prompts         the concepts, and the prompts of the images on which they are measured
word_samples, estimators  which words are sampled for each image, and how often
votes, reliability        integers that add up exactly; standard errors and split-half correlation
relevance, scales         votes, normalised; the same on other scales
probe, measure            the hook that votes; the loop that generates images and counts
announcement              how many images a measurement generates, and about how long that takes
attention_maps            where each head attends to each word
merge, plan               shards added up; the cost of a measurement in advance
official, agreement, hub  the published arrays; the agreement of two measurements; relevance on the Hub
null_concepts             the null control of votes: concepts whose names mean nothing
"""
