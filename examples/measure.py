"""Measure a model with concepts of one's own, and say which head of it is the most sensitive to colour.

python examples/measure.py                              # the built-in model
python examples/measure.py CompVis/stable-diffusion-v1-4 200
"""

import sys

import headwise as hw

MODEL = sys.argv[1] if len(sys.argv) > 1 else "emoji"
PICTURES = int(sys.argv[2]) if len(sys.argv) > 2 else 60
STEPS = int(sys.argv[3]) if len(sys.argv) > 3 else 20

concepts = hw.ConceptSet(
    {
        "Color": ["red", "blue", "green", "yellow", "purple"],
        "Animals": ["dog", "cat", "rabbit", "frog", "horse"],
        "Weather": ["rain", "snow", "fog", "storm", "sun"],
    }
)
prompts = [f"a {color} {animal}" for color in concepts.words("Color") for animal in concepts.words("Animals")]

pipe = hw.load_pipeline(MODEL)  # or any diffusers pipeline that you have made yourself
relevance = hw.measure(
    pipe, concepts, prompts=prompts, pictures=PICTURES, num_inference_steps=STEPS, batch_size=10
)

print(relevance)
for head in relevance.top("Color", 3):
    print(f"{head.address}: {head.relevance:.1f} ± {1.96 * head.standard_error:.1f}")
