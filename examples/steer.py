"""Strengthen a word, and adjust a word with two senses: plain and steered images from the same noise.

python examples/steer.py                                # the built-in model
python examples/steer.py --model CompVis/stable-diffusion-v1-4 --relevance runs/sd14/relevance.safetensors
"""

import argparse

import headwise as hw

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="emoji", help="hub name or folder in diffusers format")
parser.add_argument("--relevance", default=hw.emoji.RELEVANCE, help="a file measured on that model")
parser.add_argument("--pictures", type=int, default=4)
parser.add_argument("--steps", type=int, default=20)
given = parser.parse_args()

pipe, relevance = hw.load_pipeline(given.model), hw.Relevance.load(given.relevance)
size = {"pictures": given.pictures, "num_inference_steps": given.steps}

strengths = {f"strength {s:g}": [hw.strengthen(relevance, "red", "Color", s)] for s in (-1, 0, 1, 2)}
drawn = hw.compare(pipe, "a red car", strengths, **size)
hw.beside(list(zip(*drawn.values(), strict=True)), list(drawn)).save("strengthened.png")

toward_color = hw.adjust(relevance, "orange", toward="Color", away="Fruits and Vegetables")
senses = {"plain": [], "adjusted": [toward_color], "control": [toward_color.control("random heads")]}
drawn = hw.compare(pipe, "an orange car", senses, **size)
hw.beside(list(zip(*drawn.values(), strict=True)), list(drawn)).save("adjusted.png")
print("strengthened.png and adjusted.png")
