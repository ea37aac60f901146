"""Test whether heads carry a concept, which is then lost sooner if the most relevant are weakened first.

python examples/weaken.py                               # the built-in model, and its own scorer
python examples/weaken.py --model CompVis/stable-diffusion-v1-4 --relevance runs/sd14/relevance.safetensors \
    --scorer openai/clip-vit-large-patch14
"""

import argparse

import headwise as hw

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="emoji", help="hub name or folder in diffusers format")
parser.add_argument("--relevance", default=hw.emoji.RELEVANCE, help="a file measured on that model")
parser.add_argument("--scorer", default="emoji", help="a CLIP model by hub name or folder")
parser.add_argument("--prompts", type=int, default=8)
parser.add_argument("--steps", type=int, default=10)
given = parser.parse_args()

pipe, relevance = hw.load_pipeline(given.model), hw.Relevance.load(given.relevance)
prompts = hw.eval_prompts("emoji", "Color", given.prompts)  # "a red car" …, with the other colors as choices
score = hw.scoring(hw.CLIPScorer.load(given.scorer), "choice")
heads = relevance.values.shape[1]
few = {
    "ks": (0, heads // 8, heads // 4, heads // 2, heads),
    "orders": ("most relevant", "least relevant", "random 0"),
}
weakening = hw.measure_weakening(
    pipe, relevance, "Color", prompts, score, seeds=(10,), num_inference_steps=given.steps, **few
)
for order in weakening.orders:
    means = ", ".join(f"{mean:.2f}" for mean in weakening.curve(order)[0])
    print(f"{order:>16} first: share of images with the right color {means}, at {few['ks']} heads")
print("area, least minus most relevant first:", weakening.area())
