"""Chapter 1, the pipeline as it is: its heads, its words, its seeds, and the hooks at its attention.

    heads       which attention heads read text, in one fixed order
    words       words of a prompt as text, in every script
    tokens      words of a prompt -> positions of their tokens
    setup       LoRA files, the sampler and the clip skip, for good or for a while
    pipelines   loading a pipeline, and what only its insides can answer
    generate    image i of seed s, the same in any batch
    sites       what a hook receives: the layer, the denoiser call, the rows of the batch
    inputs      what the arguments of a denoiser call hold
    calls       one call of the pipeline: which rows of a denoiser call carry the prompt, and its step
    hooks       `Hook`, the whole protocol on one screen
    attention   `hooked`, the one way into a pipeline
    contexts    those that are open on one denoiser, left in any order
    intercept   one layer's attention, computed by the hooks
    steps       latents between denoiser calls, changed by the hooks
    replacing   what is replaced in a pipeline meanwhile, and put back
    memory      how much memory a pipeline holds

Other packages reach into a pipeline through these modules; the few that need more are listed in
tests/test_layers.py.
"""
