"""Measure a model with your own concepts, and print the three most relevant heads for Color.

python examples/measure.py                              # the built-in model
python examples/measure.py --model CompVis/stable-diffusion-v1-4 --pictures 200 --out runs/mine
"""

import argparse

import headwise as hw

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="emoji", help="hub name or folder in diffusers format")
parser.add_argument("--pictures", type=int, default=64)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--out", help="folder of the run, in which an interrupted measurement resumes")
given = parser.parse_args()

concepts = hw.ConceptSet(  # ten words each; measured together with the packaged concepts of the model
    {
        "Color": ["red", "blue", "green", "yellow", "black", "white", "purple", "gray", "pink", "brown"],
        "Animals": ["dog", "cat", "elephant", "bird", "fish", "butterfly", "frog", "horse", "bat", "mouse"],
    }
)
prompts = [f"a {color} {animal}" for animal in concepts.words("Animals") for color in concepts.words("Color")]

pipe = hw.load_pipeline(given.model)  # or your own diffusers pipeline
size = {"pictures": given.pictures, "num_inference_steps": given.steps, "batch_size": 10}
relevance = hw.measure(pipe, concepts, prompts=prompts, out=given.out, **size)

print(relevance)
for head in relevance.top("Color", 3):
    print(f"{head.address}: {head.relevance:.1f} ± {1.96 * head.standard_error:.1f}")
