"""Other ways to edit images and to compose several subjects, so that comparisons are fair.

Each is a hook or a loop in a file of its own, after its paper; `table` has them by name. They start from the
same latents, with the same scheduler, as what they are compared with.
"""
