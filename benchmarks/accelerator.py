"""The cost of probing, steering and effect on an accelerator, with its limits, in at most ten minutes.

    python benchmarks/accelerator.py [--json] [--write] [--minutes 9] [--calls 20] [--device cuda]
                                     [--dtype bfloat16] [--models sd14 sdxl] [--batches 1 4 8]
                                     [--effect-batches 1 4] [--latents 0]

The denoisers are those of looking.py, not compiled. A setting is a model and a batch size; its numbers are
those of looking.py, steering.py and effect.py, with the peak memory of effect. `naive_loop` is the time of
the naive method, one image at a time in float32, divided by that of the default measurement at its best batch
size, per image and call; it does not include that the default also needs fewer calls (docs/evidence.md).
`aims` has the target for each number. When the time is up, settings that have not begun are left out and
listed.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import effect
import looking
import steering
from looking import Setting, add_output_to, tell

AT_MOST = {
    "probe_over_stock": 1.03,
    "steered_over_stock": 1.01,
    "effect_over_stock": 4.0,
    "effect_peak_gb": 16.0,
}
NAIVE_AT_LEAST = 10.0


def of_setting(setting: Setting, calls: int, with_effect: bool) -> dict[str, Any]:
    """The numbers of one setting; effect, which keeps activations, is optional."""
    results = looking.compare(calls, setting) | {"batch": setting.batch}
    results |= {"steered_over_stock": steering.compare(calls, setting)["steered_over_stock"]}
    if with_effect:
        of_effect = effect.compare(calls, setting)
        results |= {
            name: value for name, value in of_effect.items() if name.startswith(("effect", "again", "kept"))
        }
    return results


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every setting while there is time, then the naive loop of each model."""
    until, results, left_out, naive_loop = time.monotonic() + 60 * options.minutes, [], [], {}
    for model in options.models:
        for batch in options.batches:
            setting = Setting(model, options.latents, batch, options.device, options.dtype)
            if time.monotonic() > until:
                left_out.append(f"{model}, batch {batch}")
                continue
            sys.stderr.write(f"{model}, batch {batch} …\n")
            results.append(of_setting(setting, options.calls, batch in options.effect_batches))
    for model in dict.fromkeys(each["model"] for each in results):
        if time.monotonic() > until:
            left_out.append(f"{model}, naive loop")
            continue
        sys.stderr.write(f"{model}, naive loop …\n")
        alone = Setting(model, options.latents, 1, options.device, "float32")
        best = min(each["lean_s"] / each["batch"] for each in results if each["model"] == model)
        naive_loop[model] = looking.compare(options.calls, alone)["naive_s"] / best
    aims = [
        *bounded(results),
        *(
            {"what": "naive_loop", "where": m, "at_least": NAIVE_AT_LEAST, "measured": ratio}
            for m, ratio in naive_loop.items()
        ),
    ]
    return {"settings": results, "naive_loop": naive_loop, "aims": aims, "left_out": left_out}


def bounded(results: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The upper limit on each cost of each setting, and the measured cost."""
    for each in results:
        where = f"{each['model']}, batch {each['batch']}"
        for what, most in AT_MOST.items():
            if what in each:
                yield {"what": what, "where": where, "at_most": most, "measured": each[what]}


def holds(aim: dict[str, Any]) -> bool:
    """Whether an aim is reached."""
    return aim.get("at_least", 0.0) <= aim["measured"] <= aim.get("at_most", float("inf"))


def main() -> None:
    """Print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--minutes", type=float, default=9.0, help="time after which no setting is begun")
    parser.add_argument("--calls", type=int, default=20, help="turns to time")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--models", nargs="+", choices=("sd14", "sdxl"), default=["sd14", "sdxl"])
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 4, 8], help="images, with two rows each"
    )
    parser.add_argument(
        "--effect-batches", nargs="*", type=int, default=[1, 4], help="batches at which to measure effect"
    )
    parser.add_argument("--latents", type=int, default=0, help="side of the latents; 0 for the model's own")
    options = parser.parse_args()
    results = compare(options)
    if tell(results, options):
        for aim in results["aims"]:
            bound = f"≤ {aim['at_most']:g}" if "at_most" in aim else f"≥ {aim['at_least']:g}"
            verdict = "holds" if holds(aim) else "MISSED"
            sys.stdout.write(
                f"{aim['what']:20} {aim['where']:16} {aim['measured']:8.3f}  {bound:7} {verdict}\n"
            )
        sys.stdout.writelines(f"left out: {each}\n" for each in results["left_out"])


if __name__ == "__main__":
    main()
