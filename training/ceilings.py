"""What the judge says of true drawings of the prompts that the benchmarks ask for: the most that any method can reach.

A drawing is a function of its scene, so that preservation, which compares two images, is not asked here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sprites
from drawing import Painter
from PIL import Image
from world import OF_THING, SLOTS, Scene, Thing

from headwise.benchmarks.clip_scorer import CLIPScorer
from headwise.benchmarks.editing import METRICS as EDIT_METRICS
from headwise.benchmarks.editing import edit_scores
from headwise.benchmarks.multi_concept import METRICS as SUBJECT_METRICS
from headwise.benchmarks.multi_concept import subject_atoms, subject_scores
from headwise.benchmarks.prompts.edit_pairs import EditPair, edit_pairs
from headwise.benchmarks.prompts.evaluation import MultiSubjectPrompt, multi_subject_prompts


def of_pair(pair: EditPair, things: list[str]) -> Scene:
    """The scene of an edit's target."""
    rest = pair.target.replace(pair.word, "")
    name = max((thing for thing in things if thing in rest), key=len)
    slot = SLOTS[pair.attribute]
    if slot in OF_THING:
        return Scene((Thing(name, **{slot: pair.word}),))
    return Scene((Thing(name),), **{slot: pair.word})


def of_several(several: MultiSubjectPrompt) -> Scene:
    """The scene of a prompt of two subjects."""
    colors = [subject.split()[1:-1] for subject in several.subjects]
    return Scene(
        tuple(Thing(w, color=c[0] if c else None) for w, c in zip(several.words, colors, strict=True))
    )


def main() -> None:
    """Print the means."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--sprites", type=Path, required=True)
    given = parse.parse_args()
    painter, judge = Painter(sprites.load(given.sprites)), CLIPScorer.load("emoji")

    def drawn(scene: Scene) -> Image.Image:
        return Image.fromarray(painter.draw(scene))

    pairs = edit_pairs("emoji", 20)
    pictures = [drawn(of_pair(pair, list(painter.sprites))) for pair in pairs]
    scores = edit_scores(judge, pairs, pictures, pictures)
    asked = [n for n, measure in enumerate(EDIT_METRICS) if measure != "preservation"]
    for attribute in dict.fromkeys(pair.attribute for pair in pairs):
        mine = [pair.attribute == attribute for pair in pairs]
        said = (f"{EDIT_METRICS[n]} {scores[n, mine].mean():.3f}" for n in asked)
        print(f"{attribute:20}", *said, sum(mine))

    prompts = multi_subject_prompts("emoji", 40)
    captions = {k: sorted({p.prompt for p in prompts if p.kind == k}) for k in {p.kind for p in prompts}}
    pictures = [drawn(of_several(several)) for several in prompts]
    scores = subject_scores(judge, prompts, pictures, captions, subject_atoms(prompts))
    for kind in sorted(captions):
        mine = [several.kind == kind for several in prompts]
        means = zip(SUBJECT_METRICS, scores[mine].mean(0), strict=True)
        print(f"{kind:20}", *(f"{metric} {mean:.3f}" for metric, mean in means))


if __name__ == "__main__":
    main()
