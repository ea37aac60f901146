"""The demo: what heads carry, and what follows from that, on a built-in model, in four stages.

    measure    which heads carry each concept, by effect    relevance.safetensors, effect.safetensors
    weaken     one concept's heads, in several orders       weakening/, a run of its own
    draw       the first of the packaged prompts            pictures/
    turn       words given less and more by their heads     turned/

Every stage keeps its count or its images in the folder as it goes, and leaves alone what is there already,
so that the demo goes on where it stopped. It counts before it draws, so a folder that holds another run, or
this one with other settings, is refused before an image in it is changed.
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

# All stages together are to take three minutes at most on two cores.
PICTURES_OF_CONCEPT, DRAWN, PROMPTS, STEPS, BATCH_SIZE = 20, 32, 10, 20, 16
SECONDS = 4  # between checkpoints: what a killed demo loses at most
SEED = 0  # of all images but those of the weakening, which have the seed of `headwise weaken`
WEAKENED = "Color"
ORDERS = (MOST, LEAST, "random 0", "random 1")
WEAKENED_64THS = (0, 1, 4, 16, 32, 48, 64)  # of all heads: closer where few heads may be enough
DIALS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)


class Turn(NamedTuple):
    """A word of a prompt, to be turned by the heads of its concept."""

    prompt: str
    word: str
    concept: str


TURNED = (
    Turn("a red car in the forest", "red", "Color"),
    Turn("a red car in the forest", "forest", "Nature Scenes"),
    Turn("a blue dog at night", "night", "Time of Day"),
)


class Demo(NamedTuple):
    """What the demo measured.

    Args:
        relevance: The relevance by effect of all concepts.
        weakening: What images still show of one concept when heads are weakened in several orders.
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
    """Measure a built-in model, weaken heads, draw, and turn words; with the same folder it goes on.

    Args:
        out: The folder of the run; it is made if it is missing.
        model: The name of the built-in model, whose scorer scores the images.
        pipe: Another pipeline; None loads the model.
        concepts: Another concept set, which has the concepts of `TURNED` too; None takes the model's.
        score: From images and their prompts to numbers, as in `measure_weakening`; None asks the model's
            scorer which word of the concept each image shows.
        pictures: How many images are measured *for each concept*.
        num_inference_steps: Denoiser calls per image that is drawn, turned or weakened.
        batch_size: Images per pipeline call.
        progress: Whether to show a bar on stderr for each stage.

    Raises:
        RunMismatch: The folder holds another run, or a demo of other numbers.
    """
    out, defaults = expanded(out), defaults_of(model)
    pipe = load_pipeline(model) if pipe is None else pipe
    measured = len(ConceptSet.of(concepts or defaults.concepts)) * pictures
    _require_as_many(out, pictures, measured)
    with _bar("1 of 4: measuring heads", measured, progress) as told:
        relevance = measure_effect(
            pipe, concepts or defaults.concepts, pictures=pictures, seed=SEED, out=out,
            batch_size=batch_size, checkpoint_every=SECONDS, progress=told,
        )  # fmt: skip
    passed: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
    }
    score = score or scoring(CLIPScorer.load(defaults.scorer), defaults.score)
    prompts, all_heads = eval_prompts(defaults.cases, WEAKENED, PROMPTS), relevance.values.shape[1]
    ks = sorted({all_heads * share // 64 for share in WEAKENED_64THS})
    with _bar(f"2 of 4: weakening {WEAKENED}", len(ORDERS) * len(ks) * len(prompts), progress) as told:
        weakening = measure_weakening(
            pipe, relevance, WEAKENED, prompts, score, ks=ks, orders=ORDERS, random_orders=2, seeds=(10,),
            out=out / "weakening", batch_size=batch_size, keep_prompts=1, checkpoint_every=SECONDS,
            progress=told, **passed,
        )  # fmt: skip
    studio = _Studio(pipe, batch_size, passed)
    with _bar("3 of 4: drawing", DRAWN, progress) as told:
        studio.draw(out / "pictures", read_prompts(None, pipe)[:DRAWN], told)
    with _bar("4 of 4: turning words", len(TURNED) * len(DIALS), progress) as told:
        studio.turn(out / "turned", relevance, TURNED, told)
    return Demo(relevance, weakening)


class _Studio:
    """Where images are made that nothing is counted of: those drawn and those turned.

    An image is left alone where its file says that it was made in this very way.

    Args:
        pipe: The pipeline.
        batch_size: Images per pipeline call.
        passed: Options of the pipeline call.
    """

    def __init__(self, pipe: Any, batch_size: int, passed: dict[str, Any]) -> None:
        self.pipe, self.batch_size, self.passed = pipe, batch_size, passed
        settings = settings_of_pictures(pipe, []) | {"seed": SEED, **passed}
        self.settings = {name: value for name, value in settings.items() if name != "prompts"}

    def draw(self, folder: Path, prompts: Sequence[str], told: Callable[[int, int], None]) -> None:
        """Image n of the seed shows prompt n."""
        files = [folder / f"{n:05d}.png" for n in range(len(prompts))]
        made_of = [self.settings | {"picture": n, "prompt": prompt} for n, prompt in enumerate(prompts)]
        missing = [n for n, file in enumerate(files) if not holds(file, made_of[n])]
        for some in batches(0, len(missing), self.batch_size):
            numbers = [missing[i] for i in some]
            with quiet(self.pipe):
                images = generate(self.pipe, prompts, SEED, numbers, output_type="pil", **self.passed)
            for n, image in zip(numbers, images, strict=True):
                save_picture(files[n], image, made_of[n])
            told(len(prompts) - len(missing) + some.stop, len(prompts))

    def turn(
        self, folder: Path, relevance: Relevance, turns: Sequence[Turn], told: Callable[[int, int], None]
    ) -> None:
        """A row of images for each word, all from the same latents, one for each dial."""
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
            told((row + 1) * len(DIALS), len(turns) * len(DIALS))


@contextmanager
def _bar(name: str, total: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with the name of its stage, which is told how many images are there; full at the end."""
    with tqdm(total=total, desc=name, unit="image", disable=not show) as bar:

        def told(done: int, of: int) -> None:
            bar.update(done - bar.n)

        yield told
        told(total, total)


def _require_as_many(out: Path, pictures: int, measured: int) -> None:
    """Refuse to measure more in a folder whose other stages follow from what was measured there."""
    try:
        run = json.loads((out / "run.json").read_bytes())
        there = run["pictures"] if run["kind"] == "effect" else measured
    except (OSError, ValueError, KeyError, TypeError):
        return  # no run, or one that measuring refuses
    if there != measured:
        raise RunMismatch(
            f"{out} was begun with {there * pictures / measured:g} images of each concept, and {pictures} "
            "are asked for; all else in it follows from the first. Ask for as many, or give another folder."
        )
