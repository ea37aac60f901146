"""Chapter 2, work that survives and is shared: folders that resume, ranges of numbers, workers that may die.

    shards      ranges of image numbers, and a share of them for each machine
    locks       one writer per folder
    scores      numbers along named axes, filled in incrementally
    folder      the folder of one run: settings, checkpoints, progress
    image_names what the name of a kept image says
    schedule    which chunk of numbers goes to which worker, when workers may die
    workers     tasks of one pipeline or of many workers: chunks go out, counts come back and add up
    ray         workers on a Ray cluster

Nothing here knows a model, a vote or torch.
"""
