"""Which estimator knows what heads do? Ten of them, held against what random subsets of heads lose.

subsets                 what images lose when random subsets of heads are weakened
subset_losses           how well values of heads predict these losses, given the size of the subset
partial_correlation     the score, its ceiling and its intervals
tuning                  the prompts that estimators may see, and what they are measured on
estimators              votes, attention, value norms, effect …; gates, which are learned
scores                  what comparisons found, as numbers with intervals
benchmark               the comparison
"""
