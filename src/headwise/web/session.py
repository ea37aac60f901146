r"""What the page works with: a model, its measured relevance, and a CLIP model that scores its images.

The page is there at once; the model is loaded by a thread in the background, and whatever needs it waits for
it. Relevance is numbers in a file, read without the model. Only the worker of the queue touches the pipeline;
other threads count tokens with copies of its tokenizers, because a tokenizer is not safe for two threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Literal

from headwise import emoji
from headwise.errors import HeadwiseError, ModelNotLoaded, UnreadableFile
from headwise.measuring.relevance import Relevance
from headwise.model.tokens import TextSegment, Word, split_words

__all__ = ["MapCache", "ModelSession"]


class MapCache:
    """The attention maps of the last few images, by the job that generated them."""

    def __init__(self, size: int = 8) -> None:
        self._maps: OrderedDict[str, Any] = OrderedDict()
        self._size, self._lock = size, threading.Lock()

    def put(self, job: str, maps: Any) -> None:
        """Keep the maps of a job; the oldest ones are dropped."""
        with self._lock:
            self._maps[job] = maps
            while len(self._maps) > self._size:
                self._maps.popitem(last=False)

    def get(self, job: str) -> Any:
        """The maps of a job; None if they were dropped."""
        with self._lock:
            return self._maps.get(job)


class ModelSession:
    """A model with its relevance.

    Args:
        model: The model's hub name or folder, or the name of a built-in one.
        load_pipeline: A function that loads the pipeline.
        relevance: The relevance file; None where nothing has been measured yet.
        scorer: The CLIP model that scores images, by hub name or folder, or the name of a built-in
            model, for its own; None if there is none.
        steps: The number of inference steps that the page proposes.
        guidance_scale: The guidance scale that the page proposes.
        loading: What `hw.load_pipeline` was given beside the name, such as LoRA files.
        loras: The folder whose LoRA files a request may name; None if it may name none.
    """

    def __init__(
        self,
        model: str,
        load_pipeline: Callable[[], Any],
        *,
        relevance: Path | None = None,
        scorer: str | None = None,
        steps: int = 30,
        guidance_scale: float | int = 7.5,
        loading: Mapping[str, Any] | None = None,
        loras: Path | None = None,
    ) -> None:
        self.model, self.file, self.scorer_name = model, relevance, scorer
        self.steps, self.guidance_scale, self.loading = steps, guidance_scale, loading or {}
        self.loras = loras
        self.at_work: Mapping[str, Any] = self.loading  # the same of the present job; for the worker alone
        self.takes: dict[str, Any] = {}  # what the form may offer for this model, once it is loaded
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.error = ""
        self.images: OrderedDict[Any, Any] = OrderedDict()  # by what made them; for the worker alone
        self._load_pipeline, self._segments = load_pipeline, tuple[TextSegment, ...]()
        self._pipe: Any = None
        self._scorer: Any = None
        self._loaded, self._lock = threading.Event(), threading.Lock()
        self._measured: dict[Path, tuple[float, Relevance]] = {}

    def load(self) -> None:
        """Load the model, in the calling thread; what goes wrong is kept as `error`."""
        try:
            from headwise.model.text_encoders import text_segments

            pipe = self._load_pipeline()
            reader = copy(pipe)
            tokenizers = {name: part for name, part in vars(pipe).items() if name.startswith("tokenizer")}
            vars(reader).update(deepcopy(tokenizers))
            self.takes = _taken_by(pipe)
            self._segments, self._pipe, self.state = tuple(text_segments(reader)), pipe, "ready"
        except Exception as error:  # the page reports it, and stays
            self.fail(error)
        finally:
            self._loaded.set()

    def fail(self, error: Exception) -> None:
        """Record that the model could not be loaded."""
        self.error, self.state = str(error) or type(error).__name__, "failed"
        self._loaded.set()

    @property
    def names(self) -> set[str]:
        """The names of this model in results: its name here, and that of the loaded pipeline."""
        from headwise.measuring.official import MODELS, SHORT

        names = {self.model, MODELS[SHORT[self.model]] if self.model in SHORT else self.model}
        if self._pipe is not None:
            from headwise.model.pipelines import model_name

            names.add(model_name(self._pipe))
        return names

    @property
    def relevance_files(self) -> dict[str, Path]:
        """The relevance files of the model, by the names that requests give them; "" is the default."""
        built_in = emoji.MODELS.get(self.model)
        named = {} if built_in is None else {":effect": built_in.effect, ":votes": built_in.relevance}
        return ({} if self.file is None else {"": self.file}) | named

    def built_in(self, file: Path | None) -> Literal["effect", "votes"] | None:
        """By what a relevance file was measured, if it is one of those that come with the built-in model."""
        model = emoji.MODELS.get(self.model)
        if model is None or file not in (model.effect, model.relevance):
            return None
        return "effect" if file == model.effect else "votes"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the model's images.

        Raises:
            ModelNotLoaded: It is not loaded yet.
        """
        self._require_ready()
        from headwise.model.generate import image_size

        return image_size(self._pipe)

    @property
    def pipe(self) -> Any:
        """The pipeline, as soon as it is loaded.

        Raises:
            ModelNotLoaded: It could not be loaded.
        """
        self._loaded.wait()
        if self._pipe is None:
            raise ModelNotLoaded(self.error)
        return self._pipe

    def lora_files(self) -> dict[str, Path]:
        """The LoRA files that lie in the folder itself, by name; links that lead out of it are left out."""
        if self.loras is None or not self.loras.is_dir():
            return {}
        folder = self.loras.resolve()
        files = sorted(self.loras.glob("*.safetensors"))
        return {file.name: file for file in files if file.is_file() and file.resolve().parent == folder}

    def loading_of(self, request: Any) -> dict[str, Any]:
        """What `hw.load_pipeline` would be given, beside the name, for a request.

        Raises:
            HeadwiseError: It names a LoRA file that is not in the folder, or a second clip skip.
        """
        changes = self._changes_of(request)
        if changes["clip_skip"] is not None and "clip_skip" in self.loading:
            raise HeadwiseError(
                f"The server was started with --clip-skip {self.loading['clip_skip']}. "
                "Leave the clip skip out."
            )
        changes["loras"] = {**self.loading.get("loras", {}), **changes["loras"]}
        return {**self.loading, **{name: value for name, value in changes.items() if value}}

    def _changes_of(self, request: Any) -> dict[str, Any]:
        """How a request sets the model up, with the paths of its LoRA files."""
        files, scales = self.lora_files(), getattr(request, "loras", {})
        if unknown := sorted(scales.keys() - files.keys()):
            known = (
                f"Choose one of: {', '.join(files)}." if files else "Start the server with --loras FOLDER."
            )
            raise HeadwiseError(f"{unknown[0]!r} was not found among the LoRA files of this server. {known}")
        given = {name: getattr(request, name, None) for name in ("scheduler", "clip_skip")}
        return given | {"loras": {str(files[name]): scale for name, scale in scales.items()}}

    @contextmanager
    def set_up_for(self, request: Any) -> Iterator[None]:
        """Set the pipeline up as a request asks, and restore it afterwards; for the worker alone."""
        from headwise.model.setup import set_up_for_now

        loading = self.loading_of(request)
        with set_up_for_now(self.pipe, **self._changes_of(request)):
            self.at_work = loading
            try:
                yield
            finally:
                self.at_work = self.loading

    @property
    def scorer(self) -> Any:
        """The CLIP model that scores images, loaded when it is first needed.

        Raises:
            HeadwiseError: None was named.
        """
        if self.scorer_name is None:
            raise HeadwiseError(
                "No CLIP model scores this model's images. Start the server with --scorer and the folder or "
                "hub name of a CLIP model."
            )
        if self._scorer is None:
            from headwise.benchmarks.clip_scorer import CLIPScorer

            self._scorer = CLIPScorer.load(self.scorer_name)
        return self._scorer

    def relevance(self, file: Path | None = None) -> Relevance:
        """The relevance in the model's own file, or in another one.

        Raises:
            UnreadableFile: There is none.
        """
        file = file or self.file
        if file is None or not file.is_file():
            raise UnreadableFile(
                f"Nothing has been measured of {self.model} yet. Measure it under Runs, or with `headwise "
                f"measure --model {self.model}`, then choose the run."
            )
        written = file.stat().st_mtime
        with self._lock:
            if self._measured.get(file, (0.0, None))[0] != written:
                self._measured[file] = (written, Relevance.load(file))
            return self._measured[file][1]

    def words(self, prompt: str) -> tuple[Word, ...]:
        """The words of a prompt with their tokens."""
        self._require_ready()
        with self._lock:
            return split_words(self._segments, prompt)

    def changed_words(self, source: str, target: str) -> tuple[Word, ...]:
        """The words of a target prompt that the source lacks, or has elsewhere.

        Raises:
            PromptsNotAlike: They have no word in common.
        """
        from headwise.editing.alignment import align

        words = self.words(target)
        with self._lock:
            alignment = align(self._segments, source, target)
        changed = alignment.replaced | alignment.new
        return tuple(w for w in words if any(p < len(changed) and changed[p] for p in w.positions))

    def _require_ready(self) -> None:
        """Refuse at once, instead of waiting."""
        if self.state == "loading":
            raise ModelNotLoaded(f"{self.model} is still loading. Try again in a moment.")
        if self.state == "failed":
            raise ModelNotLoaded(self.error)


def _taken_by(pipe: Any) -> dict[str, Any]:
    """What a model can do: its samplers, its size, its highest clip skip, and whether it takes LoRA files."""
    from headwise.model.clip_skip import highest_clip_skip
    from headwise.model.generate import image_size, side_step
    from headwise.model.samplers import sampler_of, samplers_for

    width, height = image_size(pipe)
    return {
        "sampler": sampler_of(pipe),
        "samplers": samplers_for(pipe),
        "size": {"width": width, "height": height, "step": side_step(pipe)},
        "clip_skip": highest_clip_skip(pipe),
        "loras": hasattr(pipe, "load_lora_weights"),
    }
