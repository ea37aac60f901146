"""Chapter 3, from a pipeline to a `Relevance`: which heads carry which concept, and how sure that is.

concepts, prompts         what is asked about, and on which images
word_samples, estimators  which words each image is shown, and how often
votes, reliability        integers that add up exactly; standard errors and split-half correlation
relevance, scales         votes, normalised; the same on other scales
probe, measure            the hook that votes; the loop that generates images and counts
announcement              how many images that will be, and about how long
attention_maps            where each head attends to each word
merge, plan               shards put together; what a measurement will take
official, agreement, hub  the published arrays; do two measurements agree; relevance on the Hub
null_concepts             the control of votes, in which names mean nothing
"""
