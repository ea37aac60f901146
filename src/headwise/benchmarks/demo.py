"""The demo, on a built-in model in four stages: what heads carry, and what follows from it.

    measure    which heads carry each concept, by effect         relevance.safetensors, effect.safetensors
    weaken     one concept's heads, in several orders            weakening/, a separate run
    draw       the first of the packaged prompts                 pictures/
    turn       words turned down and up through their heads      turned/

Every stage saves its results in the folder as it goes and keeps those that are already there, so that the
demo continues where it stopped. It measures before it generates, so a folder that holds another run, or a
demo with other settings, is refused before any image in it is changed.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from headwise.benchmarks.clip_scorer import CLIPScorer, scoring
from headwise.benchmarks.defaults import defaults_of
from headwise.benchmarks.prompts.evaluation import eval_prompts
from headwise.benchmarks.results import LEAST, MOST, Weakening
from headwise.benchmarks.weakening import Score, measure_weakening
from headwise.errors import RunMismatch
from headwise.files import expanded
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.measure_effect import measure_effect
from headwise.measuring.prompts import read_prompts
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generate, generate_keys
from headwise.model.pipelines import digest_of, load_pipeline, quiet, settings_of_pictures
from headwise.pictures import holds, save_picture
from headwise.runs.shards import batches
from headwise.steering.dose import amplify

__all__ = ["BATCH_SIZE", "DIALS", "DRAWN", "PICTURES_OF_CONCEPT", "STEPS", "TURNED", "Demo", "Turn", "demo"]

# All stages together should take at most three minutes on two cores.
PICTURES_OF_CONCEPT, DRAWN, PROMPTS, STEPS, BATCH_SIZE = 20, 32, 10, 20, 16
SECONDS = 4  # between checkpoints: the most that a killed demo loses
SEED = 0  # of all images except in the weakening, which uses the seed of `headwise weaken`
WEAKENED = "Color"
ORDERS = (MOST, LEAST, "random 0", "random 1")
WEAKENED_64THS = (0, 1, 4, 16, 32, 48, 64)  # of all heads: denser where few heads may be enough
DIALS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)


class Turn(NamedTuple):
    """A word of a prompt, to be turned down and up through the heads of its concept."""

    prompt: str
    word: str
    concept: str


TURNED = (
    Turn("a red car in the forest", "red", "Color"),
    Turn("a red car in the forest", "forest", "Nature Scenes"),
    Turn("a blue dog at night", "night", "Time of Day"),
)


class Demo(NamedTuple):
    """The results of the demo.

    Args:
        relevance: The relevance by effect of all concepts.
        weakening: How much images still show of one concept when its heads are weakened in several orders.
    """

    relevance: Relevance
    weakening: Weakening


def demo(
    out: str | Path,
    *,
    model: str = "emoji",
    pipe: Any = None,
    concepts: ConceptSet | None = None,
    score: Score | None = None,
    pictures: int = PICTURES_OF_CONCEPT,
    num_inference_steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> Demo:
    """Measure a model, weaken heads, generate images and turn words; resumes in the same folder.

    Args:
        out: The folder of the run; it is created if it is missing.
        model: The name of the built-in model, whose scorer scores the images.
        pipe: Another pipeline; None loads the model.
        concepts: Another concept set, which must have the concepts of `TURNED`; None takes the model's.
        score: From images and their prompts to numbers, as in `measure_weakening`; None takes the word of
            the concept that the model's scorer chooses for each image.
        pictures: The number of images to measure *per concept*.
        num_inference_steps: Denoising steps per image that is not measured by effect.
        batch_size: Images per pipeline call.
        progress: Whether to show a bar on stderr for each stage.

    Raises:
        RunMismatch: The folder holds another run, or a demo with other settings.
    """
    out, defaults = expanded(out), defaults_of(model)
    pipe = load_pipeline(model) if pipe is None else pipe
    measured = len(ConceptSet.of(concepts or defaults.concepts)) * pictures
    _require_as_many(out, pictures, measured)
    with _bar("1 of 4: measuring heads", measured, progress) as report:
        relevance = measure_effect(
            pipe, concepts or defaults.concepts, pictures=pictures, seed=SEED, out=out,
            batch_size=batch_size, checkpoint_every=SECONDS, progress=report,
        )  # fmt: skip
    passed: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
    }
    score = score or scoring(CLIPScorer.load(defaults.scorer), defaults.score)
    prompts, all_heads = eval_prompts(defaults.cases, WEAKENED, PROMPTS), relevance.values.shape[1]
    ks = sorted({all_heads * part // 64 for part in WEAKENED_64THS})
    with _bar(f"2 of 4: weakening {WEAKENED}", len(ORDERS) * len(ks) * len(prompts), progress) as report:
        weakening = measure_weakening(
            pipe, relevance, WEAKENED, prompts, score, ks=ks, orders=ORDERS, random_orders=2, seeds=(10,),
            out=out / "weakening", batch_size=batch_size, keep_prompts=1, checkpoint_every=SECONDS,
            progress=report, **passed,
        )  # fmt: skip
    studio = _Studio(pipe, batch_size, passed)
    with _bar("3 of 4: generating", DRAWN, progress) as report:
        studio.draw(out / "pictures", read_prompts(None, pipe)[:DRAWN], report)
    with _bar("4 of 4: turning words", len(TURNED) * len(DIALS), progress) as report:
        studio.turn(out / "turned", relevance, TURNED, report)
    return Demo(relevance, weakening)


class _Studio:
    """Generates the images that are only shown: those of the prompts and those with turned words.

    An image is kept if its file records exactly these settings.

    Args:
        pipe: The pipeline.
        batch_size: Images per pipeline call.
        passed: Options of the pipeline call.
    """

    def __init__(self, pipe: Any, batch_size: int, passed: dict[str, Any]) -> None:
        self.pipe, self.batch_size, self.passed = pipe, batch_size, passed
        settings = settings_of_pictures(pipe, []) | {"seed": SEED, **passed}
        self.settings = {name: value for name, value in settings.items() if name != "prompts"}

    def draw(self, folder: Path, prompts: Sequence[str], report: Callable[[int, int], None]) -> None:
        """Generate image n of the seed from prompt n."""
        files = [folder / f"{n:05d}.png" for n in range(len(prompts))]
        made_of = [self.settings | {"picture": n, "prompt": prompt} for n, prompt in enumerate(prompts)]
        missing = [n for n, file in enumerate(files) if not holds(file, made_of[n])]
        for some in batches(0, len(missing), self.batch_size):
            numbers = [missing[i] for i in some]
            with quiet(self.pipe):
                images = generate(self.pipe, prompts, SEED, numbers, output_type="pil", **self.passed)
            for n, image in zip(numbers, images, strict=True):
                save_picture(files[n], image, made_of[n])
            report(len(prompts) - len(missing) + some.stop, len(prompts))

    def turn(
        self, folder: Path, relevance: Relevance, turns: Sequence[Turn], report: Callable[[int, int], None]
    ) -> None:
        """Generate a row of images for each word, one per dial, all from the same latents."""
        for row, turn in enumerate(turns):
            files = [folder / f"{row:03d} dial {dial:g}.png" for dial in DIALS]
            measured = digest_of(relevance[turn.concept].tobytes())
            shared = self.settings | {"picture": 0, **turn._asdict(), "relevance": measured}
            made_of = [shared | {"dial": dial} for dial in DIALS]
            if not all(map(holds, files, made_of)):
                hooks = [amplify(relevance, turn.word, turn.concept, dial) for dial in DIALS]
                steer = replace(hooks[0], factors=np.concatenate([hook.factors for hook in hooks]))
                prompts, keys = [turn.prompt] * len(DIALS), [(SEED, 0)] * len(DIALS)
                with hooked(self.pipe, steer), quiet(self.pipe):
                    images = generate_keys(self.pipe, prompts, keys, output_type="pil", **self.passed)
                for file, image, settings in zip(files, images, made_of, strict=True):
                    save_picture(file, image, settings)
            report((row + 1) * len(DIALS), len(turns) * len(DIALS))


@contextmanager
def _bar(name: str, total: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for a stage: yields a function that sets the number of images done; full at the end."""
    with tqdm(total=total, desc=name, unit="image", disable=not show) as bar:

        def report(done: int, of: int) -> None:
            bar.update(done - bar.n)

        yield report
        report(total, total)


def _require_as_many(out: Path, pictures: int, measured: int) -> None:
    """Refuse another number of images in a folder whose other stages follow from its measurement."""
    try:
        run = json.loads((out / "run.json").read_bytes())
        recorded = run["pictures"] if run["kind"] == "effect" else measured
    except (OSError, ValueError, KeyError, TypeError):
        return  # no run, or one that measuring refuses
    if recorded != measured:
        raise RunMismatch(
            f"{out} was begun with {recorded * pictures / measured:g} images per concept, but pictures="
            f"{pictures} was given; its other results follow from the measurement. Give the same number, or "
            "another folder."
        )
