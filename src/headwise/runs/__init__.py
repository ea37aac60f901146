"""Chapter 2, runs that resume and are shared: run folders, ranges of image numbers, workers that may die.

    shards      ranges of image numbers, and how machines divide them
    locks       one writer per folder
    scores      numbers along named axes, filled in incrementally
    folder      the folder of one run: settings, checkpoints, progress
    image_names the names of the images that a sweep keeps
    schedule    which chunk of numbers goes to which worker, when workers may die
    workers     tasks for one pipeline or many workers: chunks go out, counts come back and add up
    ray         workers on a Ray cluster

Nothing here depends on a model, on votes or on torch.
"""
