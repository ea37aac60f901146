"""The folder of one run: what is being measured, what was counted so far, the result.

    run.json               settings, and how long each stretch of work took
    votes.safetensors      what was counted, replaced whole at every checkpoint (or weakening.safetensors)
    relevance.safetensors  the result, once it is there
    pictures/              the pictures kept, if any

A folder holds one run. The same settings go on where the counting ended; other settings are refused by name,
and so is a second process while a first one counts.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from tqdm.auto import tqdm

from headwise.errors import RunMismatch, UnreadableFile, UnwritableFolder
from headwise.files import write_whole
from headwise.pictures import save_picture
from headwise.runs.locks import hold

__all__ = ["Countable", "Progress", "ProgressCallback", "RunFolder", "all_versions", "versions"]  # fmt: skip

ProgressCallback = (
    bool | Callable[[int, int], None]
)  # a bar or none; or who is told how many of how many are done


@runtime_checkable
class Countable(Protocol):
    """What a run counts: parts add up exactly, in any order, and know how many pictures they hold."""

    def __add__(self, other: Any) -> Any: ...

    def __len__(self) -> int: ...

    def save(self, path: str | Path) -> None:
        """Write one file, whole."""
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
        """What `pack` packed."""
        ...

    def left(self, numbers: range) -> list[range]:
        """Those of these numbers that are not counted yet."""
        ...


Counted = TypeVar("Counted", bound=Countable)


class RunFolder(Generic[Counted]):
    """A folder of a run; `None` as path is a folder that keeps nothing.

    Args:
        path: The folder, made if it is not there.
        settings: What decides the result; a folder with other settings is refused.
        start: The count of no pictures, with these settings.
        name: Of the file that the count is kept in.
        whole: How many pictures the whole run is to have, where this folder may hold a part of it.
        by: The versions that those count with who count; of this process if None.

    Use it as a context: leaving it lets others write in the folder.
    """

    def __init__(
        self,
        path: str | Path | None,
        settings: dict[str, Any],
        start: Counted,
        name: str = "votes",
        whole: int | None = None,
        by: Mapping[str, str] | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.by, self.versions = versions() if by is None else by, dict[str, str]()
        self.settings, self.so_far, self.name, self.whole = settings, start, f"{name}.safetensors", whole
        self.stretches: list[dict[str, Any]] = []
        self.stamp: tuple[int, int, int] | None = None
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
            if self._stamp() != self.stamp:
                raise RunMismatch(
                    f"{self.path / self.name} was changed by somebody else while this run counted. Let one "
                    "process at a time write there: start again, or give another folder."
                )
            so_far.save(self.path / self.name)
            self.stamp = self._stamp()
            self._describe(len(so_far))
        self.so_far = so_far

    def keep(self, name: str, picture: Any, prompt: str) -> None:
        """Save one decoded picture, its prompt in the PNG's own text."""
        save_picture(self.path / "pictures" / f"{name}.png", picture, {"prompt": prompt})

    def keep_file(self, name: str, content: bytes) -> None:
        """Save a picture that another process decoded, as `keep` wrote it there."""
        (self.path / "pictures").mkdir(exist_ok=True)
        write_whole(self.path / "pictures" / Path(name).name, content)

    def _stamp(self) -> tuple[int, int, int] | None:
        """What changes when the file of the count does."""
        try:
            found = (self.path / self.name).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

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
        stored, self.stamp = self.path / self.name, self._stamp()
        if stored.exists():
            self.so_far = self.so_far + type(self.so_far).load(stored)  # adding refuses those of another kind
        self._describe(None)

    def _require_same(self, described: Path) -> None:
        try:
            found = json.loads(described.read_bytes())
            there, self.stretches = found["settings"], list(found["stretches"])
            self.versions = all_versions([found.get("versions", {})])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UnreadableFile(
                f"{described} is damaged. Remove this file alone, as the counts beside it say themselves "
                "what they are; or give another folder."
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
        if pictures is not None or not self.versions:
            self.versions = all_versions([self.versions, self.by])
        if pictures is not None:
            seconds = round(time.monotonic() - self.started, 3)
            stretches.append({"from": self.resumed_from, "to": pictures, "seconds": seconds})
        content: dict[str, Any] = {
            "settings": self.settings,
            "versions": self.versions,
            "stretches": stretches,
        }
        if self.whole is not None:
            content["pictures"] = self.whole
        write_whole(self.path / "run.json", json.dumps(content, indent=1, ensure_ascii=False).encode())


class Progress(Generic[Counted]):
    """The count as it comes: added up, shown, put on the disk from time to time and at whatever end.

    Args:
        folder: Where it is kept.
        pictures: How many there will be.
        every: Seconds between checkpoints.
        shown: Is there a bar on stderr? Or who is told, after each batch, how many pictures of how many are
            counted; what it raises ends the run, with all that was counted kept.
        says: What to say of the count beside the bar.
    """

    def __init__(
        self,
        folder: RunFolder[Counted],
        pictures: int,
        every: float | int,
        shown: ProgressCallback,
        says: Callable[[Counted], str] = lambda so_far: "",
    ) -> None:
        self.folder, self.so_far, self.every, self.says = folder, folder.so_far, every, says
        self.saved = time.monotonic()
        self.told = shown if callable(shown) else None
        self.bar = tqdm(
            total=pictures, initial=len(self.so_far), unit="picture", disable=not shown or callable(shown)
        )

    def __enter__(self) -> "Progress[Counted]":
        return self

    def __call__(self, part: Counted) -> None:
        """Count one more batch."""
        before = len(self.so_far)
        self.so_far = self.so_far + part
        self.bar.update(len(self.so_far) - before)
        if time.monotonic() - self.saved >= self.every:
            self.folder.checkpoint(self.so_far)
            self.bar.set_postfix_str(self.says(self.so_far))
            self.saved = time.monotonic()
        if self.told is not None:
            self.told(len(self.so_far), int(self.bar.total))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.bar.close()
        if kind is None or not issubclass(kind, UnwritableFolder):  # a full disk is still full
            self.folder.checkpoint(self.so_far)


def all_versions(each: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Those of several who counted: "2.6.0, 2.13.0" where they differ."""
    found: dict[str, list[str]] = {}
    for of_one in each:
        for name, said in of_one.items():
            known = found.setdefault(name, [])
            known += [one for one in said.split(", ") if one not in known]
    return {name: ", ".join(known) for name, known in found.items()}


def versions() -> dict[str, str]:
    """Of the packages that decide a result."""
    return {name: version(name) for name in ("headwise", "torch", "diffusers", "transformers", "numpy")}
