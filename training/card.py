"""Write the model card (src/headwise/emoji/README.md) from card.json: every number in it comes from there."""

from __future__ import annotations

import json
from pathlib import Path

from vocabulary import CONCEPTS
from world import two_sense

EMOJI = Path(__file__).parent.parent / "src/headwise/emoji"

TEXT = """\
# The emoji model

A small latent diffusion model of a drawn world, in plain diffusers format, so that Headwise can be tried, taught and tested without a
download, and where the truth of a picture is known. It draws 64×64 emoji pictures from short English captions. It is a test
object for interpretability, no image maker.

```python
pipe = headwise.load_pipeline("emoji")  # or StableDiffusionPipeline.from_pretrained(headwise.emoji.MODEL)
image = pipe("a red car in the forest", num_inference_steps=20, guidance_scale=5).images[0]
```

| part | what it is |
|---|---|
| denoiser | `UNet2DConditionModel`, 16 cross-attention layers × 8 = 128 heads, as many as Stable Diffusion 1.x; v-prediction, zero terminal SNR |
| autoencoder | `AutoencoderKL`, 64×64×3 ↔ 8×8×64, its encoder a principal component analysis; {psnr:.1f} dB on held-out drawings, {psnr_busy:.1f} dB on busy ones |
| text encoder | `CLIPTextModel`, 4 layers, 192 wide, trained first, then frozen; its end and padding tokens say nothing |
| judge | `CLIPModel` of its own, another seed, other draws, the senses of two-sense words in balance |
| words | {concepts} of the paper's 34 concepts, {words} words, {two_sense_words} two-sense words |
| made in | {minutes_of[reader]:.0f} + {minutes_of[autoencoder]:.0f} + {minutes:.0f} minutes (text encoder, autoencoder, denoiser) and {minutes_of[judge]:.0f} for the judge, on {device}; {samples:,} samples for the denoiser |

Left out of the paper's 34 concepts: Brand Logos (others' marks) and Poses and Gestures.

## What the judge reads

Share of right answers, 95 % Wilson interval; {steps} steps, guidance {guidance}; prompts of combinations that training never saw for pairs.
A question offers the caption and its siblings, one word exchanged for each other word of the concept. "Drawn" is the same judge on
drawings of the same prompts: the ceiling.

| asked | generated | drawn | n |
|---|---|---|---|
{accuracy}

Two-sense words in their rare sense ("an orange car", "a rose-colored vase") are misread in {misread}.
On true drawings the judge takes {misread_real} for misread, which is its own error.

The judge on freshly drawn pictures, {each_judge} a concept: {judge}.
It scores the {scored_count} concepts of which it reads 95 % or more; of the others its answers mean little.

![Pictures and the prompts they were asked for](samples.png)

## Is relevance causal here?

Relevance measured with {pictures_table} pictures of {steps_table} steps, then the words' attention multiplied by −2 in the first k heads of an order, on
{half} words, {each_table} questions a concept; intervals are 95 %, by bootstrap over questions.
*Area* is accuracy averaged over k, least relevant first minus most relevant first: positive where relevance tells which heads matter.
*All* is what remains with all 128 heads weakened. {summary}

| concept | area | most | random | least | plain | all | split-half |
|---|---|---|---|---|---|---|---|
{table}

## What heads do

The share of a word's effect on the denoiser that passes through each head (`training/effect.py`), reporting words, {n_effect} prompts a concept × 4 calls.
Mean share of the 16 text layers: {layers}. Effective heads (exp of the entropy of |e|), mean over concepts: {effective:.0f} of 128. Cosine of the
effects of Color with {cosines}. Gates that pass the words of Color and block those of another concept, on words they were not fitted to (error of
what passes + error of what is blocked; 0.5 is no separation): {gates}.

| concept | effective heads | ± | sum over heads |
|---|---|---|---|
{effects}

## Sources

Sprites: Noto Emoji (Google, Apache-2.0), Twemoji (CC-BY 4.0, © Twitter, Inc and other contributors), Fluent Emoji 3D (Microsoft, MIT), from the
npm packages `emoji-datasource-google`, `emoji-datasource-twitter` and `@lobehub/fluent-emoji-3d`. They are not part of this package. How it
was made: `training/` in the repository. The weights are Apache-2.0.
"""


def percent(score: dict) -> str:
    """A share with its interval."""
    return f"{100 * score['accuracy']:.0f} % ({100 * score['low']:.0f} to {100 * score['high']:.0f})"


def summary(rows: dict[str, dict]) -> str:
    """What the table says, in a sentence."""
    above, below = sum(r["low"] > 0 for r in rows.values()), sum(r["high"] < 0 for r in rows.values())
    worst = max(r["all_weakened"] for r in rows.values())
    return (
        f"Of {len(rows)} concepts {above} have their interval above 0 and {below} below; with all heads weakened "
        f"at most {100 * worst:.0f} % of the pictures still show the word."
    )


def effects(effect: dict) -> dict[str, object]:
    """The sentences and rows on what heads do."""
    rows = effect["concepts"]
    return {
        "n_effect": next(iter(rows.values()))["n"], "effective": effect["effective_heads"],
        "layers": ", ".join(f"{100 * share:.1f}" for share in effect["layers"]) + " %",
        "cosines": ", ".join(f"{pair.split('|')[1]} {c:.2f}" for pair, c in effect["cosines"].items()),
        "gates": ", ".join(f"{pair.split('|')[1]} {g['other_words']:.2f} (fitted {g['fitted']:.2f})" for pair, g in effect["gates"].items()),
        "effects": "\n".join(
            f"| {c} | {r['effective_heads']:.1f} | {1.96 * r['effective_se']:.1f} | {r['complete']:.2f} |" for c, r in rows.items()
        ),
    }  # fmt: skip


def main() -> None:
    """Fill the text with the numbers."""
    card = json.loads((EMOJI / "card.json").read_text())
    accuracy = [
        f"| {g} | {percent(s)} | {percent(card['real'][g])} | {s['n']} |"
        for g, s in card["generated"].items()
    ]
    half = "reporting" if "weakening_reporting" in card else "tuning"
    rows = [
        f"| {c} | {r['area']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f}) | {r['most']:.2f} | {r['random']:.2f} | {r['least']:.2f} | {r['plain']:.2f} "
        f"| {r['all_weakened']:.2f} | {r['split_half']:.2f} |"
        for c, r in card[f"weakening_{half}"].items()
    ]
    filled = card | {
        "psnr": card["autoencoder_psnr"], "accuracy": "\n".join(accuracy), "misread": percent(card["misread_plain"]),
        "misread_real": percent(card["misread_real"]), "judge": ", ".join(f"{c} {100 * v:.0f} %" for c, v in card["judge"].items()),
        "half": half, "scored_count": len(card["scored"]),
        "table": "\n".join(rows), "summary": summary(card[f"weakening_{half}"]), "psnr_busy": card["autoencoder_psnr_busy"],
    } | effects(card["effect"])  # fmt: skip
    assert len(CONCEPTS) == card["concepts"] and len(two_sense()) == card["two_sense_words"]
    (EMOJI / "README.md").write_text(TEXT.format(**filled))


if __name__ == "__main__":
    main()
