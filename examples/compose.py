"""Compose two subjects in one image: plain, by Attend-and-Excite, and with the relevance of Animals.

python examples/compose.py                              # the built-in model
python examples/compose.py --model CompVis/stable-diffusion-v1-4 --relevance runs/sd14/relevance.safetensors
"""

import argparse

import headwise as hw

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="emoji", help="hub name or folder in diffusers format")
parser.add_argument("--relevance", default=hw.emoji.RELEVANCE, help="a file measured on that model")
parser.add_argument("--pictures", type=int, default=3)
parser.add_argument("--steps", type=int, default=20)
given = parser.parse_args()

pipe, relevance = hw.load_pipeline(given.model), hw.Relevance.load(given.relevance)
seeds, subjects = range(given.pictures), [["cat", "dog"]] * given.pictures
ways = {
    "plain": hw.Excite(subjects, thresholds={0.0: 0.0}),
    "attend-and-excite": hw.Excite(subjects),
    "with relevance": hw.Excite(subjects, relevance=relevance, concepts="Animals"),
}
prompts = ["a cat and a dog"] * given.pictures
drawn = {
    name: hw.excite(pipe, prompts, way, seeds=seeds, num_inference_steps=given.steps)
    for name, way in ways.items()
}
hw.beside(list(zip(*drawn.values(), strict=True)), list(drawn)).save("composed.png")
print("composed.png")
