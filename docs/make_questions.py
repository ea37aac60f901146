"""Write docs/questions.md and its figures from the kept results of the two benchmarks.

    python docs/make_questions.py

The sentences are written by hand, here; every number in a table or figure comes from the results.
"""

import json
from pathlib import Path
from typing import Any

from headwise.benchmarks.results import ENOUGH
from headwise.intervals import Interval
from headwise.report import plots
from headwise.report.page import WIDTH

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
ASKED, COMPARED = RESULTS / "emoji-questions-2026-11-23.json", RESULTS / "emoji-estimators-2026-11-23.json"

HEAD = """\
# Open questions

What the paper leaves open, asked of the UNet that came with the package until commit f4e580d. Agreement
is the rank correlation over heads, the mean over its 32 concepts with a 95 % interval (bootstrap over
concepts), held against relevance of {whole} other images (split-half {split_half:.3f}) unless a row
says otherwise. Areas between curves are means over {pairs} pairs of prompts that differ in one word, two
drawings each, with a bootstrap over pairs. No interval holds the chance of which images, words or
random orders were drawn. One small model is not every model: the command asks the same of yours.

```console
$ headwise benchmark questions --json --other an-earlier-model
```

Data: `benchmarks/results/{file}`. The earlier model is the one that
commit fc81ad8 has at `src/headwise/emoji/model`: another training of all its parts.
"""

SAID = {
    "words": (
        "More than four, where there are more. The relevance of one word is mostly its own (0.38). All "
        "words, on other images, give 0.96, which is what the noise allows."
    ),
    "choice": (
        "Very much. Two halves of one list agree at 0.45 only, less than two trainings of the model "
        "(below). Relevance belongs to a list of words, not to the name above it: say the words with "
        "every number."
    ),
    "pictures": (
        "16 for a first look, 64 for 0.96, with eight draws of words at each of 10 calls (`--estimator "
        "lean`)."
    ),
    "tokens": (
        "This model cannot tell. All four ways agree alike, and badly, with the concepts' words of one "
        "token; but those are other words, and other words agree badly anyway (above). The mean stays, "
        "being the paper's."
    ),
    "novel": (
        "In part. From its words alone a concept's relevance is foretold at 0.54, where the mean of all "
        "other concepts, which knows nothing of it, is at 0.35. The relevance of the most alike concept "
        "does about as well (0.52), and measuring 16 images much better (0.92): foretell to choose "
        "what to measure, not instead."
    ),
    "transfer": (
        "For another scheduler, wholly. For another training of the same architecture, in part (0.68): "
        "measure each checkpoint."
    ),
    "steps": (
        "Not quite, and noise alone does not explain it. The first three tenths of the calls agree with "
        "the same of other images at 0.90, with all calls at 0.78, and with the last three at 0.59: "
        "heads change what they attend to, though the paper calls it stable."
    ),
    "aware": (
        "**No**, though relevance drifts (above): the moment's own order loses the word no sooner than "
        "that of all calls, nor than that of *another* part of the calls."
    ),
    "layers": (
        "For these five attributes whole layers tell as much as heads. Over 28 concepts, most of them "
        "things, heads tell twice as much, and more for 22 of them ([evidence](evidence.md)). So "
        "compare with layers before speaking of heads."
    ),
    "factor": (
        "−1 or below. At 0.5 next to no word is lost, whatever the order; with 0 the order tells "
        "already, and below −1 hardly more. The paper's −2 is a good choice. Curves for one concept "
        "come from `headwise weaken Color --factors=0.5,0,-1,-2,-4`."
    ),
    "patching": (
        "They do. Given what the most relevant heads hand on for the source, the target shows the "
        "source's word, sooner than with the least relevant heads and than with random ones, for each "
        "of the five attributes. So these heads are not only needed for the word, which is what "
        "weakening shows: what they hand on brings it."
    ),
}


def main() -> None:
    """Write the page."""
    asked = json.loads(ASKED.read_text())
    settings = asked["settings"]
    parts = [
        HEAD.format(
            whole=settings["whole"],
            split_half=settings["whole_split_half"],
            pairs=settings["pairs"],
            file=ASKED.name,
        )
    ]
    for name, answer in asked["answers"].items():
        parts.append(_section(name, answer))
    (DOCS / "questions.md").write_text("\n".join(parts))
    compared = json.loads(COMPARED.read_text())["estimators"]
    draws = {n: one["curve"] for n, one in compared.items() if n.endswith((" 1 draw", " 8 draws"))}
    figure = plots.lines(
        draws, "rows that pass the denoiser", "agreement with the long run", ENOUGH, width=WIDTH
    )
    (DOCS / "figures" / "estimators.svg").write_text(plots.as_svg(figure))


def _section(name: str, answer: dict[str, Any]) -> str:
    values = {row: Interval(*value) for row, value in answer["values"].items()}
    file = DOCS / "figures" / f"{name}.svg"
    file.parent.mkdir(exist_ok=True)
    file.write_text(plots.as_svg(plots.intervals(values, answer["measure"], width=WIDTH)))
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
