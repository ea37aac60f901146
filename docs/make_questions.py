"""Write docs/questions.md and its figures from the kept results of the two benchmarks.

    python docs/make_questions.py

The sentences are written here, by hand; every number in a table or figure comes from the results.
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
QUESTIONS = RESULTS / "emoji-questions-2026-11-23.json"
ESTIMATORS = RESULTS / "emoji-estimators-2026-11-30.json"

HEAD = """\
# Open questions

Questions that the paper leaves open, answered on the UNet that shipped with the package until commit f4e580d.
*Agreement* is the rank correlation over heads, averaged over its 32 concepts, with a 95 % interval (bootstrap
over concepts). Unless a row says otherwise, it is agreement with relevance measured on {whole} other images
(split-half {split_half:.3f}). Areas between curves are means over {pairs} pairs of prompts that differ in one
word, two seeds each, with a bootstrap over pairs. None of the intervals covers the choice of images, word
samples or random orders. One small model does not stand for all models: the command below answers the same
questions for yours.

```console
$ headwise benchmark questions --json --model ./mine --other ./an-earlier-checkpoint
```

Data: `benchmarks/results/{file}`. The earlier model is the one at
`src/headwise/emoji/model` in commit fc81ad8, with all its parameters trained in a separate run.
"""

ANSWERS = {  # the question, its answer, and how it was measured
    "words": (
        "How many words does a concept need?",
        "More than four, where more are available. Relevance measured with a single word is mostly "
        "specific to that word (0.38). All words reach 0.96 on other images, which is as much as the "
        "noise allows.",
        "Relevance measured with a random subset of each concept's words (mean of three subsets), "
        "compared with that of all its words, which include the subset. Only concepts with at least twice "
        "as many words count.",
    ),
    "choice": (
        "Does it matter which words stand for a concept?",
        "Very much. Two halves of one list agree at only 0.45, less than two training runs of the model "
        "do (below). Relevance belongs to a list of words, not to the name above it: report the words "
        "with every number.",
        "Two random halves of each concept's words on the same images (mean of three splits); then each "
        "half, and all words, compared with all words, which include each half, on other images.",
    ),
    "pictures": (
        "How many images does a measurement need?",
        "16 images reach 0.92 and 64 reach 0.96, with eight word samples at each of 10 calls "
        "(`--estimator lean`).",
        "Relevance of the given number of images, compared with that of all the other images.",
    ),
    "tokens": (
        "How should attention to the tokens of one word be pooled?",
        "This model cannot tell. All four ways agree equally, and poorly, with the concepts' one-token "
        "words; but those are different words, and different words agree poorly anyway (above). The mean "
        "remains the default, since the paper uses it.",
        "Relevance of 4 concepts from their multi-token words alone, compared with that of their "
        "one-token words, on other images. A word's attention is the mean over its tokens, their sum, "
        "that of the last token, or that of the best token, without a penalty for long words.",
    ),
    "novel": (
        "Can a concept's relevance be predicted from its words, without measuring?",
        "In part. From its words alone, a concept's relevance is predicted at 0.54, against 0.35 for the "
        "mean of all other concepts, which uses nothing about it. The relevance of the most similar "
        "concept does about as well (0.52), and measuring 16 images does much better (0.92): use "
        "predictions to decide what to measure, not to replace the measurement.",
        "Each concept in turn is left out and predicted from the embeddings of its words and the "
        "relevance of all other concepts. The mean of the other concepts does not depend on the concept "
        "itself.",
    ),
    "transfer": (
        "Does relevance hold for another scheduler, or another checkpoint?",
        "For another scheduler, fully. For another training run of the same architecture, only in part "
        "(0.68): measure each checkpoint.",
        "Relevance is measured with each scheduler and each model, on the same latents and prompts, and "
        "compared with that of other images.",
    ),
    "steps": (
        "Is the relevance of early calls the same as that of all calls?",
        "Not quite, and noise alone does not explain the difference. The first three tenths of the calls "
        "agree at 0.90 with the same tenths on other images, at 0.78 with all calls, and at 0.59 with the "
        "last three tenths: heads change what they attend to, although the paper calls it stable.",
        "Relevance of some of the calls, compared with that of all calls and of the same calls, on other "
        "images.",
    ),
    "aware": (
        "Is it better to weaken by step-aware relevance?",
        "**No**, although relevance drifts (above): the step-aware order loses the word no sooner than "
        "the order of all calls, nor than the order of *another* part of the calls.",
        "The first k heads are weakened. In each part of the calls (three tenths, four, three) they "
        "follow the order by that part's own votes (step-aware), by all votes (averaged), or by the votes "
        "of the preceding part (shifted). Above 0, the step-aware order loses the target's word sooner. "
        "60 pairs of prompts.",
    ),
    "layers": (
        "Is it heads, or only layers?",
        "For these five attributes, ordering whole layers separates the curves as much as ordering heads. "
        "On the present UNet, whole layers have the smaller area for 28 of 29 concepts "
        "([evidence](evidence.md#a-concept-is-lost-first-where-its-most-relevant-heads-are-weakened-first)). "
        "So compare with layers before making claims about heads.",
        "How much sooner the target's word is lost when the most relevant are weakened first than when "
        "the least relevant are: by heads, and by whole layers in the order of their mean relevance. 60 "
        "pairs of prompts.",
    ),
    "factor": (
        "What should weakened attention be multiplied by?",
        "−1 or below. At 0.5 almost no word is lost, whatever the order; at 0 the order already matters, "
        "and below −1 hardly more. On the present UNet it differs: for Color the area is largest at −0.5 and "
        "falls beyond −1 ([evidence](evidence.md#the-factor)). Curves for one concept come from "
        "`headwise weaken Color --factors=0.5,0,-1,-2,-4`.",
        "How much sooner the target's word is lost when the most relevant heads are weakened first than "
        "when the least relevant are, by the factor on their attention. 60 pairs of prompts.",
    ),
    "patching": (
        "Do relevant heads carry a word?",
        "They do. When the outputs of the most relevant heads are replaced by their outputs for the source "
        "prompt, the target image shows the source's word sooner than with the least relevant heads or with "
        "random ones, for each of the five attributes. So these heads are not only necessary for the word, "
        "which is what weakening shows: their outputs also bring it about.",
        "The outputs of the first k heads are replaced by their outputs for a prompt with another word, "
        "the source's. Above 0, the source's word appears, or the target's is lost, sooner with the most "
        "relevant heads. For comparison, the same heads weakened. 60 pairs of prompts, three random "
        "orders.",
    ),
}
ROWS = {  # parts of the names of rows in the kept results, and what the page has in their place
    "1 of the words of": "1 word,",
    "2 of the words of": "2 words,",
    "4 of the words of": "4 words,",
    "one half of the words, the other": "one half of the words, the other half",
    "a half, all": "one half, all words",
    "all, all": "all words, all words",
    "pictures": "images",
    "words dealt to other concepts": "from the words of other concepts",
    "most alike": "most similar",
    "the mean of the others": "the mean of the other concepts",
    "its own": "the model's own",
    "model of fc81ad8": "model at commit fc81ad8",
    "another moment": "shifted",
    "moment": "step-aware",
    "word come": "word appears",
    ", the same": ", the same calls",
}


def main() -> None:
    """Write the page and its figures."""
    results = json.loads(QUESTIONS.read_text())
    (DOCS / "questions.md").write_text(page(results))
    for name, answer in results["answers"].items():
        figure = plots.intervals(rows(answer), answer["measure"], width=WIDTH)
        (DOCS / "figures" / f"{name}.svg").write_text(plots.as_svg(figure))
    estimators = json.loads(ESTIMATORS.read_text())["estimators"]
    curves = {
        name.replace("draw", "sample"): estimator["curve"]
        for name, estimator in estimators.items()
        if name.endswith((" 1 draw", " 8 draws"))
    }
    figure = plots.lines(
        curves, "rows that pass the denoiser", "agreement with the long run", ENOUGH, width=WIDTH
    )
    (DOCS / "figures" / "estimators.svg").write_text(plots.as_svg(figure))


def page(results: dict[str, Any]) -> str:
    """The whole page, from the kept results."""
    settings = results["settings"]
    head = HEAD.format(
        whole=settings["whole"],
        split_half=settings["whole_split_half"],
        pairs=settings["pairs"],
        file=QUESTIONS.name,
    )
    return "\n".join([head, *(_section(name, answer) for name, answer in results["answers"].items())])


def rows(answer: dict[str, Any]) -> dict[str, Interval]:
    """The rows of an answer by their names on the page."""
    return {_renamed(name): Interval(*value) for name, value in answer["values"].items()}


def _renamed(row: str) -> str:
    for kept, shown in ROWS.items():
        row = row.replace(kept, shown)
    return row


def _section(name: str, answer: dict[str, Any]) -> str:
    question, text, method = ANSWERS[name]
    lines = "\n".join(f"| {row} | {value} |" for row, value in rows(answer).items())
    return f"""\
## {question}

{text}

{method}

![{question} The numbers in the table below, with their intervals.](figures/{name}.svg)

| | {answer["measure"]} |
|---|---|
{lines}
"""


if __name__ == "__main__":
    main()
