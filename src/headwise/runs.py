"""The folder of one measurement: what is being measured, the votes so far, the result.

    run.json               settings, and how long each stretch of work took
    votes.safetensors      the votes, replaced whole at every checkpoint
    relevance.safetensors  the result, once it is there
    pictures/              the pictures kept, if any

A folder holds one run. The same settings go on where the votes end; other settings are refused by name.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm.auto import tqdm

from headwise.concepts import ConceptSet
from headwise.errors import RunMismatch, UnreadableFile, UnwritableFolder
from headwise.files import write_whole
from headwise.heads import HeadMap, denoiser_of
from headwise.pipelines import fingerprint, model_name
from headwise.relevance import Relevance
from headwise.reliability import split_half
from headwise.votes import Votes

__all__ = ["Progress", "RunFolder", "settings_of"]


class RunFolder:
    """A folder of a run; `None` as path is a folder that keeps nothing.

    Args:
        path: The folder, made if it is not there.
        settings: What decides the votes; a folder with other settings is refused.
        start: The votes of no pictures, with these settings.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any], start: Votes) -> None:
        self.path = None if path is None else Path(path)
        self.settings, self.votes = settings, start
        self.stretches: list[dict[str, Any]] = []
        if self.path is not None:
            self._open()
        self.resumed_from, self.started = len(self.votes), time.monotonic()

    def checkpoint(self, votes: Votes) -> None:
        """Put the votes so far on the disk."""
        if self.path is not None and votes is not self.votes:
            votes.save(self.path / "votes.safetensors")
            self._describe(len(votes))
        self.votes = votes

    def finish(self) -> Relevance:
        """Make the result of the votes and put it on the disk."""
        relevance = Relevance.from_votes(self.votes)
        relevance = replace(relevance, settings=relevance.settings | {"versions": _versions()})
        if self.path is not None:
            relevance.save(self.path / "relevance.safetensors")
        return relevance

    def keep(self, number: int, picture: Any, prompt: str) -> None:
        """Save one decoded picture, its prompt in the PNG's own text."""
        folder, said = self.path / "pictures", PngInfo()
        said.add_itxt("prompt", prompt)
        try:
            folder.mkdir(exist_ok=True)
            picture.save(folder / f"{number:05d}.png", pnginfo=said)
        except OSError as error:
            raise UnwritableFolder(
                f"{folder} cannot take a picture: {error.strerror or error}. Make room."
            ) from None

    def _open(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UnwritableFolder(
                f"{self.path} is not a folder. Give the path of a folder, new or of this run."
            ) from None
        except OSError as error:
            raise UnwritableFolder(
                f"{self.path} cannot be made: {error.strerror}. Give another folder."
            ) from None
        described = self.path / "run.json"
        if described.exists():
            self._require_same(described)
        stored = self.path / "votes.safetensors"
        if stored.exists():
            self.votes = self.votes + Votes.load(stored)  # adding refuses votes of another kind
        self._describe(None)

    def _require_same(self, described: Path) -> None:
        try:
            found = json.loads(described.read_bytes())
            there, self.stretches = found["settings"], list(found["stretches"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UnreadableFile(
                f"{described} is damaged. Give another folder, or remove this one."
            ) from None
        differ = [key for key in there | self.settings if there.get(key) != self.settings.get(key)]
        if differ:
            said = "; ".join(
                f"{key} is {there.get(key)!r} there and {self.settings.get(key)!r} here" for key in differ
            )
            raise RunMismatch(
                f"{self.path} holds another run: {said}. Give another folder, or the same settings."
            )

    def _describe(self, pictures: int | None) -> None:
        stretches = list(self.stretches)
        if pictures is not None:
            seconds = round(time.monotonic() - self.started, 3)
            stretches.append({"from": self.resumed_from, "to": pictures, "seconds": seconds})
        content = {"settings": self.settings, "versions": _versions(), "stretches": stretches}
        write_whole(self.path / "run.json", json.dumps(content, indent=1, ensure_ascii=False).encode())


class Progress:
    """The votes as they come: added up, shown, put on the disk from time to time and at whatever end."""

    def __init__(self, folder: RunFolder, pictures: int, every: float | int, shown: bool) -> None:
        self.folder, self.votes, self.every, self.saved = folder, folder.votes, every, time.monotonic()
        self.bar = tqdm(total=pictures, initial=len(self.votes), unit="picture", disable=not shown)

    def __enter__(self) -> "Progress":
        return self

    def __call__(self, votes: Votes) -> None:
        """Count one more batch."""
        self.votes = self.votes + votes
        self.bar.update(len(votes))
        if time.monotonic() - self.saved >= self.every:
            self.folder.checkpoint(self.votes)
            self.bar.set_postfix_str(f"split-half {np.median(split_half(self.votes)):.2f}")
            self.saved = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.bar.close()
        if kind is None or not issubclass(kind, UnwritableFolder):  # a full disk is still full
            self.folder.checkpoint(self.votes)


def settings_of(
    pipe: Any, concepts: ConceptSet, prompts: Sequence[str], latents: Tensor | None, seed: int
) -> dict[str, Any]:
    """What decides the votes beside the arguments that are passed to the pipeline."""
    words = sum(len(concepts.words(name)) for name in concepts)
    scheduler: Any = getattr(pipe, "scheduler", None)
    return {
        "model": model_name(pipe),
        "weights": fingerprint(pipe),
        "dtype": str(denoiser_of(pipe).dtype).removeprefix("torch."),
        "scheduler": type(scheduler).__name__,
        "scheduler_settings": _hash(
            repr(sorted((k, str(v)) for k, v in scheduler.config.items() if k[0] != "_"))
        ),
        "head_map": f"{HeadMap.of(pipe).all_heads} heads, {_hash(HeadMap.of(pipe).to_json())}",
        "concept_set": f"{len(concepts)} concepts, {words} words, {_hash(repr(concepts))}",
        "prompts": f"{len(prompts)} prompts, {_hash(repr(prompts))}",
        "latents": None if latents is None else _hash(latents.double().cpu().numpy().tobytes()),
        "seed": seed,
    }


def _hash(content: str | bytes) -> str:
    return sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("headwise", "torch", "diffusers", "transformers", "numpy")}
