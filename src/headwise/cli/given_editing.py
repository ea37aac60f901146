"""`headwise benchmark editing --pictures`: methods on existing images, at equal preservation."""

import itertools
from typing import Any

from headwise.cli.options import EditSweep, Measured, Sharing, scorer_of
from headwise.cli.output import ends, print_report, table
from headwise.cli.running import running
from headwise.intervals import Interval

__all__ = ["given_editing"]

BASELINE = "prompt-to-prompt"  # the method that areas are compared with


def given_editing(
    model: Measured, pictures: str, count: int, sweep: EditSweep, sharing: Sharing, **options: Any
) -> None:
    """Compare methods of editing existing images, and print their scores.

    Args:
        model, sweep, sharing: As in `headwise benchmark editing`.
        pictures: The file of pairs with images, as `given_pairs` takes it.
        count: The maximum number of pairs per attribute.
        options: `scorer`, `effect_file` and `methods`.
    """
    from headwise.benchmarks.given_editing import benchmark_given_editing
    from headwise.benchmarks.prompts.given_pictures import given_pairs

    relevance, pairs = model.relevance(), given_pairs(pictures, count)
    settings = {name: value for name, value in sweep.settings.items() if name != "batch_size"}
    settings |= {"effect": model.effect(options["effect_file"]), "methods": options["methods"]}
    with running(model, sharing, sweep.out) as run:
        settings |= run.place(len(pairs)) | {"keep_pairs": 10}
        scorer = scorer_of(options["scorer"], model)
        result = benchmark_given_editing(run.pipe, relevance, pairs, scorer, **settings)
    if run.ends_as_shard(len(result.scores), sweep.as_json):
        return
    numbers: dict[str, Any] = {}
    points: dict[str, Any] = {}
    rows = []
    for attribute, method in itertools.product(dict.fromkeys(result.attributes), result.methods):
        intervals = _intervals(result, method, attribute)
        rows.append((attribute, method, *(f"{each}" for each in intervals.values())))
        numbers.setdefault(attribute, {})[method] = {
            name: ends(each) | {"n": each.n} for name, each in intervals.items()
        }
        points.setdefault(attribute, {}).update(
            {
                setting: {"preservation": preservation, "alignment": alignment}
                for setting, (preservation, alignment) in result.points(method, attribute).items()
            }
        )
    above = [f"gain over {BASELINE}>"] * (BASELINE in result.methods)
    grid = table("attribute", "method", "area (95 %)>", "at 0.9>", "at 0.95>", *above, rows=rows)
    print_report(sweep.out, {"attributes": numbers, "settings": points}, sweep.as_json, grid)


def _intervals(result: Any, method: str, attribute: str) -> dict[str, Interval]:
    """The area, the alignment at two preservations, and the gain in area over the baseline."""
    intervals = {"area": result.area(method, attribute)}
    intervals |= {f"at_{p:g}": result.at(method, p, attribute) for p in (0.9, 0.95)}
    if BASELINE in result.methods:
        intervals["area_above_" + BASELINE.replace("-", "_")] = result.area_above(method, BASELINE, attribute)
    return intervals
