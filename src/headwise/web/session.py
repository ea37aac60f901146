r"""What the page works with: a model, what was measured of it, and a judge.

The page is there at once; the model is loaded behind its back, and whatever needs it waits for it. Relevance
is numbers in a file, read without the model. Only the worker touches the pipeline; other threads count tokens
with copies of its tokenizers, as a tokenizer is not to be used by two threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from headwise import emoji
from headwise.errors import HeadwiseError, ModelNotLoaded, UnreadableFile
from headwise.measuring.relevance import Relevance
from headwise.model.tokens import TextSegment, Word, split_words

__all__ = ["Seen", "Workbench"]

NAME = "relevance.safetensors"


class Seen:
    """The maps of the last few pictures, by job."""

    def __init__(self, kept: int = 8) -> None:
        self._maps: OrderedDict[str, Any] = OrderedDict()
        self._kept, self._lock = kept, threading.Lock()

    def keep(self, job: str, maps: Any) -> None:
        """Those of one more picture; the oldest go."""
        with self._lock:
            self._maps[job] = maps
            while len(self._maps) > self._kept:
                self._maps.popitem(last=False)

    def get(self, job: str) -> Any:
        """Those of a picture, if they are still here."""
        with self._lock:
            return self._maps.get(job)


class Workbench:
    """A model with its relevance.

    Args:
        model: Hub name, folder or "emoji".
        load: From nothing to the pipeline.
        relevance: The relevance file, or None where nothing has been measured yet.
        judge: CLIP by hub name or folder, "emoji", or None where there is none.
        steps, guidance_scale: What the page proposes.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[], Any],
        *,
        relevance: Path | None = None,
        judge: str | None = None,
        steps: int = 30,
        guidance_scale: float | int = 7.5,
    ) -> None:
        self.model, self.file, self.judge_name = model, relevance, judge
        self.steps, self.guidance_scale = steps, guidance_scale
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.error = ""
        self.drawn: OrderedDict[Any, Any] = OrderedDict()  # pictures by what made them; the worker's own
        self._load, self._readers = load, tuple[TextSegment, ...]()
        self._pipe: Any = None
        self._imported, self._loaded, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._tools: Any = None
        self._judge: Any = None
        self._measured: dict[Path, tuple[float, Relevance]] = {}

    def start(self) -> None:
        """Begin to load the model, in a thread of its own."""
        threading.Thread(target=self._fetch, name="headwise-load", daemon=True).start()

    @property
    def built_in(self) -> bool:
        """Is the relevance the one that comes with the built-in model?"""
        return self.model == "emoji" and self.file == emoji.RELEVANCE

    @property
    def tools(self) -> Any:
        """The modules that draw and run, as soon as they are imported: drawing, explore, recipes, running."""
        self._imported.wait()
        if self._tools is None:
            raise ModelNotLoaded(self.error)
        return self._tools

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the model's pictures.

        Raises:
            ModelNotLoaded: It is not there yet.
        """
        self._ready()
        from headwise.model.generate import latent_shape

        height, width = (
            side * self._pipe.vae_scale_factor for side in latent_shape(self._pipe, None, None)[1:]
        )
        return width, height

    @property
    def pipe(self) -> Any:
        """The pipeline, as soon as it is there.

        Raises:
            ModelNotLoaded: It could not be loaded.
        """
        self._loaded.wait()
        if self._pipe is None:
            raise ModelNotLoaded(self.error)
        return self._pipe

    @property
    def judge(self) -> Any:
        """Who looks at pictures, loaded when first asked for.

        Raises:
            HeadwiseError: None was named.
        """
        if self.judge_name is None:
            raise HeadwiseError(
                "Nobody is here to judge this model's pictures. Start with --judge and a CLIP model's folder "
                "or hub name."
            )
        if self._judge is None:
            from headwise.benchmarks.clip_scorer import CLIPScorer

            self._judge = CLIPScorer.load(self.judge_name)
        return self._judge

    def relevance(self, file: Path | None = None) -> Relevance:
        """What was measured: the model's own file, or another.

        Raises:
            UnreadableFile: There is none.
        """
        file = file or self.file
        if file is None or not file.is_file():
            raise UnreadableFile(
                f"Nothing has been measured of {self.model} yet. Measure it under Runs, then choose the run."
            )
        written = file.stat().st_mtime
        with self._lock:
            if self._measured.get(file, (0.0, None))[0] != written:
                self._measured[file] = (written, Relevance.load(file))
            return self._measured[file][1]

    def words(self, prompt: str) -> tuple[Word, ...]:
        """The words of a prompt with their tokens."""
        self._ready()
        with self._lock:
            return split_words(self._readers, prompt)

    def changes(self, source: str, target: str) -> tuple[Word, ...]:
        """The words of a target prompt that its source has not, or has not there.

        Raises:
            PromptsNotAlike: They have no word in common.
        """
        from headwise.editing.alignment import align

        words = self.words(target)
        with self._lock:
            found = align(self._readers[0].tokenizer, source, target)
        changed = found.replaced | found.new
        return tuple(w for w in words if any(p < len(changed) and changed[p] for p in w.positions))

    def _ready(self) -> None:
        """Without waiting: a request is answered at once."""
        if self.state == "loading":
            raise ModelNotLoaded(f"{self.model} is still being loaded. Try again in a moment.")
        if self.state == "failed":
            raise ModelNotLoaded(self.error)

    def _fetch(self) -> None:
        try:
            # All that is large is imported in this one thread: two that import diffusers find it half made.
            from headwise.model.pipelines import text_segments
            from headwise.web import explore_jobs as explore
            from headwise.web import picture_jobs as drawing
            from headwise.web import run_jobs as running
            from headwise.web import snippets as recipes

            self._tools = SimpleNamespace(drawing=drawing, explore=explore, recipes=recipes, running=running)
            self._imported.set()
            pipe = self._load()
            self._readers = tuple(r._replace(tokenizer=deepcopy(r.tokenizer)) for r in text_segments(pipe))
            self._pipe, self.state = pipe, "ready"
        except Exception as error:  # the page says so, and stays
            self.error, self.state = str(error) or type(error).__name__, "failed"
        finally:
            self._imported.set()
            self._loaded.set()
