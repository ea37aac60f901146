"""Write docs/questions.md and its figures from the kept results of the two benchmarks.

    python docs/make_questions.py

The sentences are written by hand, here; every number in a table or figure comes from the results.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from headwise import plots
from headwise.benchmarks.estimators import ENOUGH
from headwise.intervals import Interval, bootstrap

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
ASKED, COMPARED = RESULTS / "emoji-questions-2026-11-23.json", RESULTS / "emoji-estimators-2026-11-23.json"
WEAKENED, BY_FACTOR = RESULTS / "emoji-weakening-2026-11-23.json", RESULTS / "emoji-factors-2026-11-23.json"

HEAD = """\
# Open questions

What the paper leaves open, asked of the built-in model. Agreement is the rank correlation over heads, the
mean over its 32 concepts with a 95 % interval (bootstrap over concepts), held against relevance of {whole}
other pictures (split-half {split_half:.3f}) unless a row says otherwise. One small model is not every model:
the command asks the same of yours.

```console
$ headwise benchmark questions --json --other an-earlier-model
```

Data: `benchmarks/results/{file}`. The earlier model is the one that
commit fc81ad8 has at `src/headwise/emoji/model`: another training of all its parts.
"""

SAID = {
    "words": "As many as can be listed. The relevance of one word is mostly its own (0.38); four of a concept's 4 to 12 "
    "words give 0.85. All of them, on other pictures, give 0.96, which is what the noise allows.",
    "choice": "It does, more than anything else that was asked. Two halves of one list agree at 0.45 only. Relevance "
    "belongs to a list of words, not to the name above it: say the words with every number.",
    "pictures": "16 for a first look, 64 for 0.96, with eight draws of words at each of 10 calls (`--estimator lean`).",
    "tokens": "This model cannot tell. All four ways agree alike, and badly, with the concept's words of one token; but "
    "those are other words, and other words agree badly anyway (above). The mean stays, being the paper's.",
    "novel": "In part. From its words alone a concept's relevance is foretold at 0.54, where the mean of all other "
    "concepts, which knows nothing of it, is at 0.35. The vector of the most alike concept does as well (0.52), and "
    "measuring 16 pictures does much better (0.92): foretell to choose what to measure, not instead.",
    "transfer": "To another scheduler, wholly. To another training of the same architecture, in part (0.68): "
    "measure each checkpoint.",
    "steps": "That of the middle is. The first three tenths and the last agree with each other at 0.64 only, though "
    "the paper calls relevance stable over steps.",
    "aware": "**No.** The moment's own order loses the word sooner by 0.019 of the area, with an interval that hardly "
    "leaves 0, and the order of *another* part of the calls does as well: it is not the moment that helps. "
    "For Weather Conditions 16 heads are enough to lose every word in either order, so that nothing can be told.",
    "patching": "They do. The outputs of the most relevant heads, taken from another prompt, carry its word sooner "
    "than those of the least relevant heads and than those of random ones, for all five concepts. So these heads "
    "are not only needed for the word (weakening); what they hand on is enough to exchange it.",
    "factor": "−1 or below. At 0.5 no picture loses its colour, whatever the order; with 0 the order tells already, and "
    "below −1 hardly more. The paper's −2 is a good choice.\n\n"
    "```console\n$ headwise weaken Color --count 16 --num-inference-steps 10 --dtype bf16 --ks 0,16,32,64,96,128 "
    '--factors="0.5,0,-0.5,-1,-2,-4"\n```',
    "layers": "Heads. Ordering whole layers finds half of what ordering heads finds. For 6 of the 28 concepts layers "
    "do better: [evidence](evidence.md).\n\n"
    "```console\n$ headwise benchmark weakening --count 16 --dtype bf16\n```",
}


def main() -> None:
    """Write the page."""
    asked = json.loads(ASKED.read_text())
    settings = asked["settings"]
    parts = [HEAD.format(whole=settings["whole"], split_half=settings["whole_split_half"], file=ASKED.name)]
    for name, answer in (asked["answers"] | {"factor": _factor(), "layers": _layers()}).items():
        parts.append(_section(name, answer))
    (DOCS / "questions.md").write_text("\n".join(parts))
    compared = json.loads(COMPARED.read_text())["estimators"]
    draws = {n: one["curve"] for n, one in compared.items() if n.endswith((" 1 draw", " 8 draws"))}
    figure = plots.lines(draws, "rows that pass the denoiser", "agreement with the long run", ENOUGH)
    (DOCS / "figures" / "estimators.svg").write_text(plots.as_svg(figure))


def _factor() -> dict[str, Any]:
    """What `headwise weaken --factors` found."""
    found = json.loads(BY_FACTOR.read_text())
    areas = {f"× {n}": (one["area"], one["low"], one["high"]) for n, one in found["factors"].items()}
    return {
        "question": "What should weakened attention be multiplied by?",
        "reading": f"Area between the curves of least and most relevant first, {found['concept']}, "
        f"{found['count']} prompts. Data: `benchmarks/results/{BY_FACTOR.name}`.",
        "measure": "area between curves",
        "values": areas,
    }


def _layers() -> dict[str, Any]:
    """What `headwise benchmark weakening` found for heads, and for whole layers."""
    found = json.loads(WEAKENED.read_text())["concepts"].values()
    heads, layers = np.array([[one["area"], one["layer_area"]] for one in found]).T
    of = {"heads": heads, "whole layers": layers, "heads − layers": heads - layers}
    return {
        "question": "Is it heads, or only layers?",
        "reading": "Area between the curves of least and most relevant first, by heads and by layers of the "
        f"same mean relevance; mean of {len(heads)} concepts (bootstrap over them). Data: "
        f"`benchmarks/results/{WEAKENED.name}`.",
        "measure": "area between curves",
        "values": {name: [float(end) for end in bootstrap(one, lambda m: m)] for name, one in of.items()},
    }


def _section(name: str, answer: dict[str, Any]) -> str:
    values = {row: Interval(*value) for row, value in answer["values"].items()}
    file = DOCS / "figures" / f"{name}.svg"
    file.parent.mkdir(exist_ok=True)
    file.write_text(plots.as_svg(plots.intervals(values, answer["measure"])))
    rows = "\n".join(f"| {row} | {value} |" for row, value in values.items())
    alt = f"{answer['question']} The numbers of the table beneath, with their intervals."
    return f"""\
## {answer["question"]}

{SAID[name]}

{answer["reading"]}

![{alt}](figures/{file.name})

| | {answer["measure"]} |
|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
