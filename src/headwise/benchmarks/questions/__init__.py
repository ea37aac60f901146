"""What the paper leaves open, asked once on the built-in model; docs/questions.md has the answers.

answers         the questions, one function each
estimators      how few denoiser rows give the relevance of a long run?
scales          on which scale should relevance steer?
interventions   do heads cause what images show? weakening and patching
prediction      relevance of concepts that were not measured, from their words
pooling         how attention to the tokens of a word is pooled
"""
