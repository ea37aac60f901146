"""The command that checks a model: doctor."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwise.cli.options import Json, Model, Sampling, Size
from headwise.cli.output import console, duration, finite, print_json, print_rows, table
from headwise.errors import HeadwiseError
from headwise.measuring.estimators import LEAN

if TYPE_CHECKING:  # torch takes seconds to import, which --help need not pay
    from headwise.steering.doctor import Checkup

__all__ = ["doctor"]


def doctor(
    model: Model = Model(),
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, help="Number of images to estimate time and memory for.")
    ] = 1000,
    sampling: Sampling = Sampling(LEAN.num_inference_steps),
    size: Size = Size(),
    as_json: Json = False,
) -> None:
    """Check a model, and estimate what measuring it costs.

    Checks that hooks cover every layer and leave images unchanged, and that a gradient reaches every head;
    estimates the time and memory of measuring by votes and by effect.

    \b
    Examples:
      headwise doctor --model emoji
      headwise doctor --model stabilityai/stable-diffusion-xl-base-1.0 --dtype fp16 --json
    """
    from headwise.steering.doctor import examine

    pipe = model.load()
    size.require(pipe)
    checkup = examine(pipe, guidance_scale=sampling.guidance_scale, **vars(size))
    steps = sampling.num_inference_steps
    expected = {
        "pictures": pictures,
        "num_inference_steps": steps,
        "seconds": round(checkup.seconds(pictures, steps), 1),
        "memory_mb": round(checkup.peak_mb),
    }
    by_effect = _expected_by_effect(checkup, len(model.concepts(None)))
    show = _print_json if as_json else _print_checkup
    show(checkup, expected, by_effect)
    if not checkup.covered:
        raise HeadwiseError(
            checkup.error
            or (
                "Halving every head's attention to the prompt changed nothing in this model."
                if checkup.bit_exact
                else "A hook that does nothing changed the latents of this model."
            )
        )


def _expected_by_effect(checkup: "Checkup", concepts: int) -> dict[str, Any]:
    """What a measurement by effect takes with its defaults; empty if effect cannot be measured."""
    from headwise.measuring.measure_effect import PICTURES_OF_CONCEPT, STEPS

    if checkup.effect.error:
        return {}
    pictures = PICTURES_OF_CONCEPT * concepts
    return {
        "concepts": concepts,
        "pictures": pictures,
        "num_inference_steps": STEPS,
        "seconds": round(checkup.effect.seconds(pictures, STEPS, checkup.seconds_a_call), 1),
        "memory_mb": round(checkup.effect.peak_mb),
    }


def _print_json(checkup: "Checkup", expected: dict[str, Any], by_effect: dict[str, Any]) -> None:
    layers = [
        {"address": layer.address, "heads": layer.heads, "kind": layer.kind} for layer in checkup.head_map
    ]
    effect = {
        "measurable": not checkup.effect.error,
        "error": checkup.effect.error or None,
        "heads": checkup.effect.heads,
        "seconds_a_call": finite(round(checkup.effect.seconds_a_call, 4)),
        "expected": by_effect or None,
    }
    values = {
        "model": checkup.model,
        "heads": checkup.head_map.all_heads,
        "layers": layers,
        "covered": checkup.covered,
        "undisturbed": checkup.bit_exact,
        "steered": checkup.steered,
        "family": [checkup.pipeline, *checkup.features],
        "seconds_a_call": round(checkup.seconds_a_call, 4),
        "weights_mb": round(checkup.weights_mb, 1),
        "expected": expected,
        "effect": effect,
        "versions": checkup.versions,
    }
    print_json(values)


def _print_checkup(checkup: "Checkup", expected: dict[str, Any], by_effect: dict[str, Any]) -> None:
    layers = [
        (layer.address, str(layer.heads), layer.kind, "yes" if layer.address in checkup.reached else "NO")
        for layer in checkup.head_map
    ]
    console().print(table("layer", "heads>", "kind", "covered", rows=layers))
    calls = f"{expected['pictures']} images of {expected['num_inference_steps']} steps"
    cost = f"about {duration(expected['seconds'])}, {expected['memory_mb']} MB on the model's device"
    rows = {
        "model": checkup.model,
        "pipeline": ", ".join([checkup.pipeline, *checkup.features]),
        "heads": f"{checkup.head_map.all_heads} in {len(checkup.head_map.layers)} layers",
        "with a hook that does nothing": "identical latents" if checkup.bit_exact else "DIFFERENT LATENTS",
        "with every head's attention halved": "different latents" if checkup.steered else "NOTHING CHANGED",
        "one denoiser call": f"{checkup.seconds_a_call:.3f} s",
        f"measuring {calls}": cost,
        **_rows_of_effect(checkup, by_effect),
        "weights": f"{checkup.weights_mb:.0f} MB",
        "versions": ", ".join(f"{name} {number}" for name, number in checkup.versions.items()),
    }
    print_rows(rows.items())


def _rows_of_effect(checkup: "Checkup", expected: dict[str, Any]) -> dict[str, str]:
    effect = checkup.effect
    if not expected:
        return {"by effect": f"cannot be measured. {effect.error}"}
    each = expected["pictures"] // expected["concepts"]
    what = f"by effect, {each} images for each of {expected['concepts']} concepts, one at a time"
    return {
        "with a gradient": f"{effect.heads} heads; {effect.seconds_a_call:.3f} s per call",
        what: f"about {duration(expected['seconds'])}, {expected['memory_mb']} MB on the model's device",
    }
