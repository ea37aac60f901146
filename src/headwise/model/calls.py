r"""One call of the pipeline: its prompts, which rows of a denoiser call carry them, and its step.

A row of the batch is identified by its text. `encode_prompt` returns the embedding of each image's prompt,
and the rows whose text equals it bit for bit carry that prompt, whatever rows guidance adds. If a pipeline
encodes in another way, only two batches are accepted: one row per image, or two, of which the second half
carries the prompt.

A step is one iteration over the scheduler's timesteps. Guidance may call the denoiser several times within
it, so a step begins when the timestep changes, or when the scheduler has stepped and its list repeats the
timestep, as PNDM's and Heun's lists do.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.model.text_encoders import embedding_of, require_own_words, text_segments
from headwise.model.tokens import TextSegment

__all__ = ["PipelineCall", "Rows", "images_of_rows", "require_hooked_pipeline", "watch_call"]


class Rows(NamedTuple):
    """The role of each row of a denoiser call.

    Args:
        images: The number of images of the pipeline call.
        image: For each row, the index of the image that it belongs to.
        conditional: The rows that carry the prompt, which are consecutive; empty if there are none.
    """

    images: int
    image: tuple[int, ...]
    conditional: slice


class PipelineCall:
    """One call of the pipeline, followed from its arguments to its last step.

    Args:
        prompts: The prompt of each image; empty if the pipeline was called without text.
        guidance_scale: The guidance scale of the call, if it was given one.
        segments: The tokenizers of the text that the denoiser reads.

    Attributes:
        embedding: The embedding of each image's prompt, "images tokens …"; None until it is known.
        padded_later: Whether each prompt is encoded at its own length.
        step: The index of the current step; −1 before the first.
        prompted: Whether a denoiser call of this step has carried the prompt.
    """

    def __init__(
        self, prompts: tuple[str, ...], guidance_scale: float | int, segments: tuple[TextSegment, ...]
    ) -> None:
        self.prompts, self.guidance_scale, self.segments = prompts, guidance_scale, segments
        self.embedding: Tensor | None = None
        self.padded_later = False
        self._compared: tuple[Tensor, int, list[int | None]] | None = None
        self.restart()

    @classmethod
    def of(cls, pipe: Any, arguments: dict[str, Any]) -> "PipelineCall":
        """Made from the arguments of the pipeline's `__call__`."""
        require_own_words(pipe, arguments)
        prompt = arguments.get("prompt") or ()
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        copies = arguments.get("num_images_per_prompt") or 1
        each = tuple(p for p in prompts for _ in range(copies))
        call = cls(each, arguments.get("guidance_scale") or 0, text_segments(pipe, arguments))
        embedded = embedding_of(arguments.get("prompt_embeds"))
        if embedded is not None:
            call.embedding = embedded.repeat_interleave(copies, 0)
        return call

    def restart(self) -> None:
        """Count the steps from the beginning."""
        self.step, self.prompted, self._stepped, self._used, self._repeats = -1, False, False, 0, 0
        self._timestep: Tensor | None = None

    def encoded(self, embeddings: Any) -> None:
        """Record what `encode_prompt` returned; its first call encodes the prompt."""
        first = embedding_of(embeddings)
        if self.embedding is None and first is not None:
            self.padded_later = any(isinstance(part, list) for part in (embeddings, embeddings[0]))
            copies = len(self.prompts) // len(first)  # of each prompt, if the pipeline makes them later
            self.embedding = first.repeat_interleave(copies, 0) if copies > 1 else first

    def stepped(self, scheduler: Any, timestep: Any) -> None:
        """Record a step of the scheduler.

        Raises:
            HookMisuse: No denoiser call since the previous step has carried the prompt, though its embedding
                is known: something else is read in its place, and hooks would act on nothing.
        """
        if self.step >= 0 and self.embedding is not None and not self.prompted:
            raise HookMisuse(
                f"At step {self.step} no row of the denoiser's text equals the prompt's embedding as the "
                "pipeline encoded it, so hooks would act on nothing. Did a callback change prompt_embeds? "
                "Pass them to the call instead."
            )
        self._stepped = True
        timesteps = torch.as_tensor(getattr(scheduler, "timesteps", ()))
        self._repeats = int((timesteps == torch.as_tensor(timestep).to(timesteps)).sum()) - 1

    def begin_denoiser_call(self, timestep: Any) -> None:
        """Record a denoiser call, which begins a new step or belongs to the current one."""
        now = torch.as_tensor(timestep if timestep is not None else self.step).detach().flatten()[:1].clone()
        same = self._timestep is not None and bool((now.to(self._timestep.device) == self._timestep).all())
        if same and self._stepped and self._used < 1 + self._repeats:
            self._used, same = self._used + 1, False
        elif not same:
            self._used = 1
        if not same:
            self.step, self.prompted = self.step + 1, False
        self._timestep, self._stepped = now, False

    @staticmethod
    def steps_of(pipe: Any) -> int:
        """The number of steps of a call of this pipeline, as far as the pipeline knows it."""
        timesteps = getattr(getattr(pipe, "scheduler", None), "timesteps", ())
        return getattr(pipe, "num_timesteps", None) or len(timesteps)

    def guided(self, pipe: Any, denoiser: Any) -> bool:
        """Whether half of the batch is unconditional; checked at each denoiser call, as it may change."""
        guided = getattr(pipe, "do_classifier_free_guidance", None)
        if guided is None:  # FLUX gets its guidance as a number
            guided = self.guidance_scale > 1 and "guidance_embeds" not in denoiser.config
        return bool(guided)

    def rows(
        self, text: Tensor | None, rows: int, guided: bool, unconditional: bool, prompt_first: bool = False
    ) -> Rows:
        """The role of each row of a denoiser call.

        Args:
            text: The text of each row, "rows tokens …"; None if the denoiser reads none.
            rows: The number of rows of the latents.
            guided: Whether the pipeline says that half of the batch is unconditional.
            unconditional: Whether the pipeline says that no row carries the prompt.
            prompt_first: Whether the unconditional rows come after those with the prompt.

        Raises:
            HookMisuse: The rows cannot be told apart.
        """
        carried = None if text is None else self._by_embedding(text, rows)
        images = len(self.prompts) or (rows // 2 if guided else rows)
        if carried is not None and self.embedding is not None:
            images = len(self.embedding)
            if guided and rows > images and None not in carried:  # the negative prompt is the prompt itself
                carried[slice(images, None) if prompt_first else slice(images)] = [None] * images
        elif rows in (images, 2 * images):
            unprompted = [None] * (rows - images)
            carried = [*range(images), *unprompted] if prompt_first else [*unprompted, *range(images)]
        else:
            raise HookMisuse(
                f"The denoiser was called with {rows} rows for {images} image{'s' * (images != 1)}; expected "
                f"{images}, or {2 * images} under guidance. Switch off perturbed-attention guidance and "
                "similar methods, or pass the prompt as text."
            )
        prompted = [] if unconditional else [row for row, image in enumerate(carried) if image is not None]
        conditional = slice(prompted[0], prompted[-1] + 1) if prompted else slice(rows, rows)
        if len(prompted) != conditional.stop - conditional.start:
            raise HookMisuse(
                f"The prompt's embedding is in rows {prompted} of {rows}; expected consecutive rows. Switch "
                "off whatever reorders the batch."
            )
        image = tuple(row % images if i is None else i for row, i in enumerate(carried))
        return Rows(images, image, conditional)

    def prompts_of(self, images: int) -> tuple[str, ...]:
        """The prompt of each image."""
        if not self.prompts or len(self.prompts) == images:
            return self.prompts
        copies = images // len(self.prompts)
        if copies * len(self.prompts) != images:
            raise HookMisuse(
                f"The pipeline was called with {len(self.prompts)} prompts for {images} images; expected the "
                "same number of images for each prompt. Pass one prompt for each image."
            )
        return tuple(prompt for prompt in self.prompts for _ in range(copies))

    def _by_embedding(self, text: Tensor, rows: int) -> list[int | None] | None:
        """The image of each row that carries a prompt; None if the embedding cannot be compared."""
        embedding = self.embedding
        if embedding is None or text.ndim != embedding.ndim or text.shape[2:] != embedding.shape[2:]:
            return None
        missing = text.shape[1] - embedding.shape[1]
        if missing > 0 and self.padded_later:  # to the longest text of the batch
            embedding = torch.nn.functional.pad(embedding, (0, 0, 0, missing))
        elif missing:
            return None
        if len(text) != rows:
            raise HookMisuse(
                f"The denoiser was called with {rows} rows of latents and {len(text)} of text; expected one "
                "text for each row. Use a pipeline of still images."
            )
        version = -1 if text.is_inference() else text._version
        if (
            self._compared is None
            or self._compared[0] is not text
            or self._compared[1] != version
            or version < 0
        ):
            self._compared = (text, version, images_of_rows(text, embedding))
        return list(self._compared[2])


def images_of_rows(text: Tensor, embedding: Tensor) -> list[int | None]:
    """For each row of the text, the image whose prompt it carries, found by equality; None if none.

    Args:
        text: The text of each row, "rows tokens …".
        embedding: The embedding of each image's prompt, "images tokens …". Images of the same prompt
            share an embedding; the rows that carry it are assigned to them in turn.
    """
    embedding = embedding.to(text)
    same = torch.stack([(text == of_image).flatten(1).all(1) for of_image in embedding], 1).tolist()
    taken: Counter[int] = Counter()
    images: list[int | None] = []
    for row in same:
        alike = [image for image, equal in enumerate(row) if equal]
        images.append(alike[taken[alike[0]] % len(alike)] if alike else None)
        taken.update(alike[:1])
    return images


def watch_call(pipe: Any, call: PipelineCall) -> Callable[[], None]:
    """Record in `call` what a pipeline encodes and when it steps; returns how to end that."""
    watched: list[tuple[Any, str, Any]] = []

    def watch(owner: Any, name: str, tell: Callable[[Any, tuple, dict], None]) -> None:
        """Report a method's result and arguments after each call; do nothing if it does not exist."""
        original = getattr(owner, name, None)
        if original is None:
            return

        def telling(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            tell(result, args, kwargs)
            return result

        telling.__wrapped__ = original  # type: ignore[attr-defined]  # pipelines inspect the signature of step
        watched.append((owner, name, owner.__dict__.get(name)))
        # Directly into __dict__: diffusers' __setattr__ writes unknown names into the configuration.
        owner.__dict__[name] = telling

    def step(result: Any, args: tuple, kwargs: dict) -> None:
        call.stepped(scheduler, kwargs["timestep"] if "timestep" in kwargs else args[1])

    scheduler = getattr(pipe, "scheduler", None)
    watch(pipe, "encode_prompt", lambda result, args, kwargs: call.encoded(result))
    if scheduler is not None:
        watch(scheduler, "step", step)

    def end() -> None:
        for owner, name, before in reversed(watched):
            owner.__dict__.pop(name, None)
            if before is not None:
                owner.__dict__[name] = before

    return end


def require_hooked_pipeline(pipe: Any) -> None:
    """Raise HookMisuse if a pipeline other than the hooked one is calling the denoiser."""
    from diffusers import DiffusionPipeline

    frame = sys._getframe()
    while frame is not None:
        other = frame.f_locals.get("self") if frame.f_code.co_name == "__call__" else None
        if isinstance(other, DiffusionPipeline):
            if other is pipe:
                return
            raise HookMisuse(
                f"A {type(other).__name__} calls the denoiser, but the {type(pipe).__name__} that shares it "
                "is hooked. Hook the pipeline that you call."
            )
        frame = frame.f_back  # type: ignore[assignment]
