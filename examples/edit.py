"""Edit an image by editing its prompt: generated anew, by prompt-to-prompt, and with the relevance of Color.

python examples/edit.py                                 # the built-in model
python examples/edit.py --model CompVis/stable-diffusion-v1-4 --relevance runs/sd14/relevance.safetensors
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
source, target = "a red car", "a blue car"
ways = {
    "anew": hw.PromptToPrompt(cross=0, self_attention=0),
    "prompt-to-prompt": hw.PromptToPrompt(),
    "with relevance": hw.PromptToPrompt(relevance=relevance, concepts={"blue": "Color"}),
}
columns = {source: [], **{name: [] for name in ways}}
for name, hook in ways.items():
    drawn = hw.edit(
        pipe, source, [target], hook, seeds=range(given.pictures), num_inference_steps=given.steps
    )
    columns[source], columns[name] = ([picture for picture, _ in drawn], [edited for _, edited in drawn])
hw.beside(list(zip(*columns.values(), strict=True)), list(columns)).save("edited.png")
print("edited.png")
