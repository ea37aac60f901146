"""Chapter 1, the pipeline as it is: its heads, its words, its seeds, and the hooks at its attention.

    heads       which attention heads read text, in one fixed order
    words       words of a prompt as text, in every script
    tokens      words of a prompt -> positions of their tokens
    setup       LoRA files, the sampler and the CLIP skip, permanently or within a context
    pipelines   loading a pipeline, and what depends on diffusers' internals
    generate    image i of seed s, the same in any batch
    sites       what a hook receives: the layer, the denoiser call, the rows of the batch
    inputs      what the arguments of a denoiser call hold
    calls       one call of the pipeline: which rows of a denoiser call carry the prompt, and its step
    hooks       `Hook`, the whole protocol on one screen
    attention   `hooked`, the one way into a pipeline
    contexts    the contexts open on one denoiser, left in any order
    intercept   one layer's attention, computed by the hooks
    steps       latents between denoiser calls, changed by the hooks
    replacing   what is replaced in a hooked pipeline, and restored
    memory      how much memory a pipeline uses

Other packages access the insides of a pipeline through these modules; the few exceptions are listed in
tests/test_layers.py.
"""
