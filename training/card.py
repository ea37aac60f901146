"""Write the card of a built-in model (README.md in its folder) from card.json, the source of every number in it."""

from __future__ import annotations

import argparse
import json

from package import FOLDERS, SHEETS
from vocabulary import CONCEPTS
from world import two_sense

# How each model is loaded, and its denoiser.
KINDS = {
    "emoji": (
        "StableDiffusionPipeline.from_pretrained(headwise.emoji.MODEL)",
        "`UNet2DConditionModel` of one level with skip connections, on all 8×8 latents; it reads text in its up blocks, in 12 cross-attention layers × 8 = 96 heads",
    ),
    "emoji-dit": (
        "PixArtSigmaPipeline.from_pretrained(headwise.emoji.DIT.model), called with\n# use_resolution_binning=False",
        "`PixArtTransformer2DModel` on all 8×8 latents, without skip connections, 8 cross-attention layers × 12 = 96 heads",
    ),
}

TEXT = """\
# The model {name}

A small latent diffusion model of a world of emoji drawings, in standard diffusers format, so that Headwise can be tried, taught and tested
without a download, on images whose content is known. It generates 64×64 emoji images from short English captions. It is a test
object for interpretability, not meant for making images.

```python
pipe = headwise.load_pipeline("{name}")
# or plain: {loaded}
image = pipe("a red car in the forest", num_inference_steps=20, guidance_scale=5).images[0]
```

| part | what it is |
|---|---|
| denoiser | {denoiser}; v-prediction, zero terminal SNR |
| autoencoder | `AutoencoderKL`, 64×64×3 ↔ 8×8×64, with a principal component analysis as its encoder; {psnr:.1f} dB on held-out drawings, {psnr_busy:.1f} dB on busy ones |
| text encoder | `CLIPTextModel`, 4 layers, width 192, trained first, then frozen; its end and padding tokens carry no information |
| scorer | a separate `CLIPModel`, with another seed and other training samples, in which both senses of two-sense words are equally frequent |
| words | {concepts} of the paper's 34 concepts, {words} words, {two_sense_words} two-sense words |
| training time | {minutes_of[reader]:.0f} + {minutes_of[autoencoder]:.0f} + {minutes:.0f} minutes (text encoder, autoencoder, denoiser) and {minutes_of[judge]:.0f} for the scorer, on {device}; {samples:,} samples for the denoiser |

Two of the paper's 34 concepts are left out: Brand Logos (trademarks of others) and Poses and Gestures.

## Targets, and what was reached

{aims}

## What the scorer recognises

Share of correct answers with a 95 % Wilson interval; {steps} steps, guidance {guidance}; for pairs, the prompts are combinations that never occurred in training.
The scorer chooses between the caption and its siblings, in which one word is replaced by each other word of its concept. "Drawings" are the same scorer's
answers on drawings of the same prompts, which is the ceiling.

| what is asked | generated | drawings | drawings after the autoencoder | n |
|---|---|---|---|---|
{accuracy}

Two-sense words in their rare sense ("an orange car", "a rose-colored vase") are misread in {misread} of the images.
On correct drawings the scorer counts {misread_real} as misread, which is its own error.

Accuracy of the scorer on new drawings, {each_judge} per concept: {judge}.
It scores the {scored_count} concepts that it recognises in 95 % or more of the drawings; on the other concepts its answers mean little.

![Generated images and their prompts]({sheet})

## Is relevance causal here?

Relevance was measured with {pictures_votes} images of {steps_votes} steps by votes and {pictures_effect} images of {steps_effect} steps by effect. Then the words'
attention was multiplied by −2 in the first k heads of an order, on {half} words, {each_table} questions per concept; intervals are 95 %, by bootstrap over
questions. *Area* is accuracy averaged over k, least relevant first minus most relevant first: positive where relevance finds the heads that matter.
*Random* is accuracy averaged over k in random order, *plain* the accuracy of unchanged images, and *all* what remains with all {heads} heads weakened. {summary}

| concept | area by votes | area by effect | random | plain | all | split-half by votes, effect |
|---|---|---|---|---|---|---|
{table}

## What heads do

The share of a word's effect on the denoiser that passes through each head (`training/effect.py`), on reporting words, {n_effect} prompts per concept × 4 calls.
Mean share of the {text_layers} text layers: {layers}. Effective heads (exp of the entropy of |e|), mean over concepts: {effective:.0f} of {heads}. Cosine similarity between the
effect of Color and that of {cosines}. Gates that pass the words of Color and block those of another concept, on words they were not fitted to (error of
what passes + error of what is blocked; 0.5 is no separation): {gates}.

| concept | effective heads | ± | sum over heads |
|---|---|---|---|
{effects}

## Sources

Sprites: Noto Emoji (Google, Apache-2.0), Twemoji (CC-BY 4.0, © Twitter, Inc and other contributors), Fluent Emoji 3D (Microsoft, MIT), from the
npm packages `emoji-datasource-google`, `emoji-datasource-twitter` and `@lobehub/fluent-emoji-3d`. They are not part of this package. The training
code is in `training/` of the repository. The weights are Apache-2.0.
"""


def percent(score: dict) -> str:
    """A share with its interval."""
    return f"{100 * score['accuracy']:.0f} % ({100 * score['low']:.0f} to {100 * score['high']:.0f})"


def area(row: dict) -> str:
    """The area of a concept with its interval."""
    return f"{row['area']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"


def summary(votes: dict[str, dict], effect: dict[str, dict]) -> str:
    """The table in one sentence."""
    counts = []
    for kind, rows in (("votes", votes), ("effect", effect)):
        above, below = sum(r["low"] > 0 for r in rows.values()), sum(r["high"] < 0 for r in rows.values())
        mean = sum(r["area"] for r in rows.values()) / len(rows)
        counts.append(
            f"the interval by {kind} lies above 0 for {above} and below 0 for {below}, with a mean area of {mean:.2f}"
        )
    worst = max(r["all_weakened"] for r in votes.values())
    return (
        f"Of {len(votes)} concepts, {', and '.join(counts)}; with all heads weakened, at most {100 * worst:.0f} % of the "
        "images still show the word."
    )


def aims(card: dict, votes: dict[str, dict], effect: dict[str, dict]) -> str:
    """Rows of targets and of what was reached."""
    generated, real, after = (card[kind] for kind in ("generated", "real", "reconstructed"))
    lost = max(real[group]["accuracy"] - after[group]["accuracy"] for group in real)
    layers, cosines, gates = (card["effect"][key] for key in ("layers", "cosines", "gates"))
    shares = lambda groups, rows: ", ".join(f"{100 * rows[g]['accuracy']:.0f}" for g in groups) + " %"  # noqa: E731
    above = lambda rows: f"{sum(r['low'] > 0 for r in rows.values())} of {len(rows)}"  # noqa: E731
    mean = sum(r["area"] for r in effect.values()) / len(effect)
    worst = max(row["all_weakened"] for row in votes.values())
    rows = [
        ("autoencoder, held-out drawings", f"{card['autoencoder_psnr']:.1f} dB", "28 dB or more"),
        ("largest loss of the scorer's accuracy on drawings after the autoencoder", f"{100 * lost:.0f} points", "2 points"),
        ("concepts that the scorer recognises in 95 % of drawings", f"{len(card['scored'])} of {card['concepts']}", "30 of 32"),
        ("scorer on drawings: both objects of a pair, count", shares(("pair", "count"), real), "90, 90 %"),
        ("generated: object, style, scene, weather", shares(("object", "style", "scene", "weather"), generated), "95, 95, 95, 95 %"),
        ("generated: count, both objects of a pair", shares(("count", "pair"), generated), "80, 70 %"),
        ("effect: smallest and largest share of a text layer", f"{100 * min(layers):.1f}, {100 * max(layers):.1f} %", "1.5 or more, 25 % or less"),
        ("effect: effective heads, mean over concepts", f"{card['effect']['effective_heads']:.0f}", "50 or more"),
        ("effect: cosine similarity of Color to Fruits and Vegetables, Plants, Food and Beverages", ", ".join(
            f"{cosines[f'Color|{other}']:.2f}" for other in ("Fruits and Vegetables", "Plants", "Food and Beverages")), "0.40 or less"),
        ("error of gates that pass Color and block these", ", ".join(f"{gate['other_words']:.2f}" for gate in gates.values()), "0.25 or less"),
        ("two-sense words misread", percent(card["misread_plain"]), "40 to 80 %"),
        ("all heads × −2: word still recognised, at most", f"{100 * worst:.0f} %", "25 %"),
        ("weakening by votes, by effect: concepts with interval above 0", f"{above(votes)}, {above(effect)}", "95 %, all"),
        ("weakening by effect: mean area", f"{mean:.2f}", "0.60"),
    ]  # fmt: skip
    lines = ["| | reached | target |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def effects(effect: dict) -> dict[str, object]:
    """The sentences and rows on what heads do."""
    rows = effect["concepts"]
    return {
        "text_layers": len(effect["layers"]), "heads": len(next(iter(rows.values()))["e"]), "n_effect": next(iter(rows.values()))["n"], "effective": effect["effective_heads"],
        "layers": ", ".join(f"{100 * share:.1f}" for share in effect["layers"]) + " %",
        "cosines": ", ".join(f"{pair.split('|')[1]} {c:.2f}" for pair, c in effect["cosines"].items()),
        "gates": ", ".join(f"{pair.split('|')[1]} {g['other_words']:.2f} (fitted {g['fitted']:.2f})" for pair, g in effect["gates"].items()),
        "effects": "\n".join(
            f"| {c} | {r['effective_heads']:.1f} | {1.96 * r['effective_se']:.1f} | {r['complete']:.2f} |" for c, r in rows.items()
        ),
    }  # fmt: skip


def main() -> None:
    """Fill the text with the numbers."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--name", choices=FOLDERS, default="emoji", help="which of the built-in models")
    given = parse.parse_args()
    loaded, denoiser = KINDS[given.name]
    card = json.loads((FOLDERS[given.name] / "card.json").read_text())
    accuracy = [
        f"| {g} | {percent(s)} | {percent(card['real'][g])} | {percent(card['reconstructed'][g])} | {s['n']} |"
        for g, s in card["generated"].items()
    ]
    half = "reporting" if "weakening_votes_reporting" in card else "tuning"
    votes, effect = (card[f"weakening_{kind}_{half}"] for kind in ("votes", "effect"))
    rows = [
        f"| {c} | {area(r)} | {area(effect[c])} | {r['random']:.2f} | {r['plain']:.2f} | {r['all_weakened']:.2f} "
        f"| {r['split_half']:.2f}, {effect[c]['split_half']:.2f} |"
        for c, r in votes.items()
    ]
    filled = card | {
        "name": given.name, "sheet": SHEETS[given.name], "loaded": loaded, "denoiser": denoiser,
        "psnr": card["autoencoder_psnr"], "accuracy": "\n".join(accuracy), "misread": percent(card["misread_plain"]),
        "misread_real": percent(card["misread_real"]), "judge": ", ".join(f"{c} {100 * v:.0f} %" for c, v in card["judge"].items()),
        "half": half, "scored_count": len(card["scored"]),
        "table": "\n".join(rows), "summary": summary(votes, effect), "aims": aims(card, votes, effect), "psnr_busy": card["autoencoder_psnr_busy"],
    } | effects(card["effect"])  # fmt: skip
    assert len(CONCEPTS) == card["concepts"] and len(two_sense()) == card["two_sense_words"]
    (FOLDERS[given.name] / "README.md").write_text(TEXT.format(**filled))


if __name__ == "__main__":
    main()
