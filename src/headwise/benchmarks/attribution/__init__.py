"""Which estimator predicts best what heads do? Estimators against the losses of random subsets of heads.

subsets                 what images lose when random subsets of heads are weakened
subset_losses           how well values of heads predict these losses, given the size of the subset
partial_correlation     the score, its ceiling and its intervals
tuning                  the prompts that estimators may see, and the losses they are compared with
estimators              votes, attention, value norms, effect …; gates, which are learned
scores                  results of the comparison, as numbers with intervals
benchmark               the comparison
"""
