"""Chapter 2, work that survives and is shared: folders that resume, ranges of numbers, workers that may die.

    shards      ranges of picture numbers, and a share of them for each machine
    locks       one writer per folder
    scores      numbers along named axes, filled in incrementally
    folder      the folder of one run: settings, checkpoints, progress
    workers     chunks go out to many workers, counts come back and add up
    ray         workers on a Ray cluster

Nothing here knows a model, a vote or torch.
"""
