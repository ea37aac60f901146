"""Other methods to edit images and to compose several subjects, for fair comparisons.

Each is a hook or a loop in its own file, written after its paper; `table` lists them by name. They start from
the same latents and use the same scheduler as the methods they are compared with.
"""
