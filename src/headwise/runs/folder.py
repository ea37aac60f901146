"""The folder of one run: what is being measured, what was counted so far, the result.

    run.json               kind and settings of the run, and how long each session of work took
    votes.safetensors      what was counted, replaced at every checkpoint (scores.safetensors of a sweep)
    relevance.safetensors  the result, once it is there
    pictures/              the images kept, if any

A folder holds one run. With the same settings the run continues where the counting ended; different settings
are refused by name, and so is a second process while a first one counts.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from headwise.errors import RunMismatch, UnreadableFile, UnwritableFolder
from headwise.files import expanded, write_whole
from headwise.pictures import save_picture
from headwise.runs.locks import hold

__all__ = ["Countable", "Progress", "ProgressCallback", "RunFolder", "all_versions", "versions"]

ProgressCallback = bool | Callable[[int, int], None]
"""A bar on stderr or none; or a function that is called with how many are done and how many there will be."""


@runtime_checkable
class Countable(Protocol):
    """What a run counts: it adds up exactly, in any order, and knows how many images it holds."""

    def __add__(self, other: Any) -> Any: ...

    def __len__(self) -> int: ...

    def save(self, path: str | Path) -> None:
        """Write one file, completely or not at all."""
        ...

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """Read what `save` wrote."""
        ...

    def pack(self) -> bytes:
        """The content of that file, to be sent."""
        ...

    @classmethod
    def unpack(cls, content: bytes) -> Any:
        """Read what `pack` packed."""
        ...

    def left(self, numbers: range) -> list[range]:
        """The ranges of these numbers that are not counted yet."""
        ...


Counted = TypeVar("Counted", bound=Countable)


class RunFolder(Generic[Counted]):
    """A folder of a run; `None` as path is a folder that keeps nothing.

    Args:
        path: The folder, made if it is not there.
        settings: What decides the result; a folder with different settings is refused.
        start: The count of no images, with these settings.
        name: The name of the file that the count is kept in, without its ending.
        total: How many images the complete run is to have, where this folder may hold a shard of it.
        counted_with: The package versions of those who count; of this process if None.
        kind: What kind of run it is, such as "weakening"; the file's name if "".

    Use it as a context: leaving it lets other processes write in the folder.
    """

    def __init__(
        self,
        path: str | Path | None,
        settings: dict[str, Any],
        start: Counted,
        name: str = "votes",
        total: int | None = None,
        counted_with: Mapping[str, str] | None = None,
        kind: str = "",
    ) -> None:
        self.path = None if path is None else expanded(path)
        self.counted_with = versions() if counted_with is None else counted_with
        self.versions: dict[str, str] = {}
        self.settings, self.so_far, self.name, self.total = settings, start, f"{name}.safetensors", total
        self.kind = kind or name
        self.sessions: list[dict[str, Any]] = []
        self.mtime: tuple[int, int, int] | None = None
        self.close: Callable[[], Any] = lambda: None
        if self.path is not None:
            self._make()
            self.close = hold(self.path, self)
            try:
                self._open()
            except BaseException:
                self.close()
                raise
        self.resumed_from, self.started = len(self.so_far), time.monotonic()

    def __enter__(self) -> "RunFolder[Counted]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def checkpoint(self, so_far: Counted) -> None:
        """Put the count so far on the disk."""
        if self.path is not None and so_far is not self.so_far:
            if self._mtime() != self.mtime:
                raise RunMismatch(
                    f"{self.path / self.name} was changed by another process while this run counted. Let one "
                    "process at a time write there: start again, or give another folder."
                )
            so_far.save(self.path / self.name)
            self.mtime = self._mtime()
            self._describe(len(so_far))
        self.so_far = so_far

    def keep(self, name: str, picture: Any, prompt: str) -> None:
        """Save one decoded image, its prompt in the PNG's own text."""
        save_picture(self.path / "pictures" / f"{name}.png", picture, {"prompt": prompt})

    def keep_file(self, name: str, content: bytes) -> None:
        """Save an image that another process decoded, as `keep` wrote it there."""
        (self.path / "pictures").mkdir(exist_ok=True)
        write_whole(self.path / "pictures" / Path(name).name, content)

    def _mtime(self) -> tuple[int, int, int] | None:
        """What changes when the file of the count does."""
        try:
            stat = (self.path / self.name).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _make(self) -> None:
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

    def _open(self) -> None:
        described = self.path / "run.json"
        if described.exists():
            self._require_same(described)
        stored, self.mtime = self.path / self.name, self._mtime()
        if stored.exists():
            self.so_far = self.so_far + type(self.so_far).load(
                stored
            )  # adding refuses a count of another kind
        self._describe(None)

    def _require_same(self, described: Path) -> None:
        try:
            content = json.loads(described.read_bytes())
            there, self.sessions = content["settings"], list(content["stretches"])
            self.versions = all_versions([content.get("versions", {})])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UnreadableFile(
                f"{described} is damaged. Remove this file alone, since the counts beside it hold their own "
                "settings; or give another folder."
            ) from None
        differ = [key for key in there | self.settings if there.get(key) != self.settings.get(key)]
        if differ:
            differences = "; ".join(
                f"{key} is {there.get(key)!r} there and {self.settings.get(key)!r} here" for key in differ
            )
            raise RunMismatch(
                f"{self.path} holds another run: {differences}. Give another folder, or the same settings."
            )

    def _describe(self, pictures: int | None) -> None:
        sessions = list(self.sessions)
        if pictures is not None or not self.versions:
            self.versions = all_versions([self.versions, self.counted_with])
        if pictures is not None:
            seconds = round(time.monotonic() - self.started, 3)
            sessions.append({"from": self.resumed_from, "to": pictures, "seconds": seconds})
        content: dict[str, Any] = {
            "kind": self.kind,
            "settings": self.settings,
            "versions": self.versions,
            "stretches": sessions,
        }
        if self.total is not None:
            content["pictures"] = self.total
        write_whole(self.path / "run.json", json.dumps(content, indent=1, ensure_ascii=False).encode())


class Progress(Generic[Counted]):
    """The count as it comes: added up, shown, and put on the disk from time to time and however the run ends.

    Args:
        folder: Where it is kept.
        total: How many images there will be.
        every: Seconds between checkpoints.
        callback: Whether to show a bar on stderr; or a function that is called after each batch with how many
            images are counted, and of how many. What it raises ends the run; what was counted is kept.
        describe: A few words on the count, to be shown beside the bar.
    """

    def __init__(
        self,
        folder: RunFolder[Counted],
        total: int,
        every: float | int,
        callback: ProgressCallback,
        describe: Callable[[Counted], str] = lambda so_far: "",
    ) -> None:
        self.folder, self.so_far, self.every, self.describe = folder, folder.so_far, every, describe
        self.saved = time.monotonic()
        self.on_batch = callback if callable(callback) else None
        self.bar = tqdm(
            total=total, initial=len(self.so_far), unit="image", disable=not callback or callable(callback)
        )

    def __enter__(self) -> "Progress[Counted]":
        return self

    def __call__(self, batch: Counted) -> None:
        """Add one more batch."""
        before = len(self.so_far)
        self.so_far = self.so_far + batch
        self.bar.update(len(self.so_far) - before)
        if time.monotonic() - self.saved >= self.every:
            self.folder.checkpoint(self.so_far)
            self.bar.set_postfix_str(self.describe(self.so_far))
            self.saved = time.monotonic()
        if self.on_batch is not None:
            self.on_batch(len(self.so_far), int(self.bar.total))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.bar.close()
        if kind is None or not issubclass(kind, UnwritableFolder):  # a full disk is still full
            self.folder.checkpoint(self.so_far)


def all_versions(sessions: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The versions of several sessions in one text each: "2.6.0, 2.13.0" where they differ."""
    merged: dict[str, list[str]] = {}
    for session in sessions:
        for package, text in session.items():
            seen = merged.setdefault(package, [])
            seen += [version for version in text.split(", ") if version not in seen]
    return {package: ", ".join(seen) for package, seen in merged.items()}


def versions() -> dict[str, str]:
    """The versions of the packages that decide a result."""
    return {name: version(name) for name in ("headwise", "torch", "diffusers", "transformers", "numpy")}
