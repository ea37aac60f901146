"""Questions that the paper leaves open, answered for the built-in model in docs/questions.md.

answers         the questions, one function each
estimators      how few denoiser rows give the relevance of a long run
scales          which scale of relevance steers best
interventions   whether heads cause what images show: weakening and patching
prediction      relevance of unmeasured concepts, predicted from their words
pooling         how attention to the tokens of a word is pooled
"""
