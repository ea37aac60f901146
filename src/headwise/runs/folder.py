"""The folder of one run: its settings, the count so far, and the result.

    run.json               kind and settings of the run, and how long each session took
    votes.safetensors      the count so far, replaced at every checkpoint (scores.safetensors for a sweep)
    relevance.safetensors  the result, when the run is complete
    pictures/              the kept images, if any

A folder holds one run. With the same settings the run continues where it stopped; different settings are
refused by name, and so is a second process while the first one is counting.
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
"""Whether to show a bar on stderr; or a function called with the number of images done and the total."""


@runtime_checkable
class Countable(Protocol):
    """The count of a run: counts add up exactly, in any order, and their length is the number of images."""

    def __add__(self, other: Any) -> Any: ...

    def __len__(self) -> int: ...

    def save(self, path: str | Path) -> None:
        """Write one file atomically."""
        ...

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """Read a file that `save` wrote."""
        ...

    def pack(self) -> bytes:
        """The content of the file that `save` writes, to send it."""
        ...

    @classmethod
    def unpack(cls, content: bytes) -> Any:
        """The inverse of `pack`."""
        ...

    def left(self, numbers: range) -> list[range]:
        """The ranges of these numbers that are not counted yet."""
        ...


Counted = TypeVar("Counted", bound=Countable)


class RunFolder(Generic[Counted]):
    """The folder of a run; with path `None` nothing is stored.

    Args:
        path: The folder; it is created if it does not exist.
        settings: The settings that determine the result; a folder with different settings is refused.
        start: The count of no images, with these settings.
        name: The name of the file of the count, without its extension.
        total: The number of images of the complete run, if this folder may hold a shard of it.
        counted_with: The package versions of the processes that count; None for this process.
        kind: The kind of run, such as "weakening"; the file's name if "".

    Use it as a context: after leaving it, other processes can write to the folder.
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
        """Write the count so far to disk."""
        if self.path is not None and so_far is not self.so_far:
            if self._mtime() != self.mtime:
                raise RunMismatch(
                    f"{self.path / self.name} was changed by another process during this run. Let only one "
                    "process write there at a time: start again, or give another folder."
                )
            so_far.save(self.path / self.name)
            self.mtime = self._mtime()
            self._describe(len(so_far))
        self.so_far = so_far

    def keep(self, name: str, picture: Any, prompt: str) -> None:
        """Save one decoded image, with its prompt in the PNG's metadata."""
        save_picture(self.path / "pictures" / f"{name}.png", picture, {"prompt": prompt})

    def keep_file(self, name: str, content: bytes) -> None:
        """Save the file of an image that `keep` wrote in another process."""
        (self.path / "pictures").mkdir(exist_ok=True)
        write_whole(self.path / "pictures" / Path(name).name, content)

    def _mtime(self) -> tuple[int, int, int] | None:
        """Inode, size and modification time of the count's file, which change with it."""
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
                f"{self.path} is not a folder. Give the path of a new folder, or that of this run."
            ) from None
        except OSError as error:
            raise UnwritableFolder(
                f"{self.path} cannot be created: {error.strerror}. Give another folder."
            ) from None

    def _open(self) -> None:
        described = self.path / "run.json"
        if described.exists():
            self._require_same(described)
        stored, self.mtime = self.path / self.name, self._mtime()
        if stored.exists():
            self.so_far = self.so_far + type(self.so_far).load(
                stored
            )  # adding refuses a different kind of count
        self._describe(None)

    def _require_same(self, described: Path) -> None:
        try:
            content = json.loads(described.read_bytes())
            there, self.sessions = content["settings"], list(content["stretches"])
            self.versions = all_versions([content.get("versions", {})])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UnreadableFile(
                f"{described} is damaged. Remove only this file, since the count has its own copy of the "
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
    """Adds up counts, shows progress, and saves checkpoints at intervals and however the run ends.

    Args:
        folder: The folder of the run.
        total: The number of images of the run.
        every: Seconds between checkpoints.
        callback: Whether to show a bar on stderr; or a function called after each batch with the number of
            images counted so far and the total. If it raises, the run ends and keeps what it has counted.
        describe: Returns a few words about the count, shown after the bar.
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
        """Add the count of one batch."""
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
        if kind is None or not issubclass(kind, UnwritableFolder):  # a full disk would fail again
            self.folder.checkpoint(self.so_far)


def all_versions(sessions: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The package versions of several sessions, joined as "2.6.0, 2.13.0" where they differ."""
    merged: dict[str, list[str]] = {}
    for session in sessions:
        for package, text in session.items():
            seen = merged.setdefault(package, [])
            seen += [version for version in text.split(", ") if version not in seen]
    return {package: ", ".join(seen) for package, seen in merged.items()}


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    return {name: version(name) for name in ("headwise", "torch", "diffusers", "transformers", "numpy")}
