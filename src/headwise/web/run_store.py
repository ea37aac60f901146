r"""The folder of runs: their contents and owners, and nothing outside of it.

A name that a browser sends is looked up as it is, its links followed, and refused unless the result lies in
the folder of runs. For a run that was started here, `web.json` holds the request and the owner (the hash of a
session); only that session may continue or remove it. Runs of the command line have no such file: they are
listed, and cannot be removed from here.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.benchmarks.results import kind_of
from headwise.errors import HeadwiseError, UnreadableFile, UnwritableFolder
from headwise.files import write_whole

__all__ = ["CARD", "Forbidden", "NotFound", "OutsideRuns", "Run", "RunStore"]

CARD = "web.json"
KINDS = {  # what the page calls each kind of run that it can show
    "votes": "measurement",
    "effect": "measurement",
    "weakening": "weakening",
    "polysemy": "polysemy",
    "editing": "editing",
    "strengthening": "strengthening",
    "multi-concept": "multi-concept",
    "atoms": "atoms",
    "given-editing": "given-editing",
    "segmentation": "segmentation",
    "weakenings": "trials",
}
SCORED = tuple(kind for kind in KINDS if kind not in ("votes", "effect", "weakenings"))


class OutsideRuns(HeadwiseError):
    """A name that is not in the folder of runs."""


class NotFound(HeadwiseError):
    """A job, image or file that does not exist, or not any more."""


class Forbidden(HeadwiseError):
    """A run of another session."""


@dataclass(frozen=True)
class Run:
    """A run in the folder of runs.

    Args:
        name: The name of its folder.
        kind: "measurement", "weakening", "polysemy", "editing", "strengthening", "multi-concept", "atoms",
            "given-editing", "segmentation", "trials" or "pictures".
        state: "finished" or "unfinished".
        counted: How many images are counted.
        request: The fields of the request that started it; empty for runs of the command line.
        owner: The session that started it; "" for runs of the command line.
        changed: The time of its last change, in seconds since 1970.
        pictures: The file names of its images.
    """

    name: str
    kind: str
    state: str
    counted: int
    request: dict[str, Any]
    owner: str
    changed: float
    pictures: tuple[str, ...]


class RunStore:
    """The runs in a folder.

    Args:
        root: The folder that holds them; made when the first run is started.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str, *parts: str) -> Path:
        """The path of a run, or of a file in it.

        Raises:
            OutsideRuns: It is not in the folder of runs.
        """
        names = (name, *parts)
        if all(part.isprintable() and part.strip(". ") and not set(part) & set("/\\") for part in names):
            root = self.root.resolve()
            target = root.joinpath(*names).resolve()
            if (root / name).resolve() == root / name and target.is_relative_to(root / name):
                return self.root.joinpath(*names)
        raise OutsideRuns(f"No run is named {name[:80]!r}. Choose one from the list.")

    def all(self) -> list[Run]:
        """All runs, the latest first."""
        runs = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            try:
                if folder.is_dir() and self.path(folder.name):
                    runs.append(self.run(folder.name))
            except (HeadwiseError, OSError):  # a link that leads elsewhere, or not a run
                continue
        return sorted(runs, key=lambda run: -run.changed)

    def run(self, name: str) -> Run:
        """The run of a name.

        Raises:
            OutsideRuns: There is none.
        """
        folder = self.path(name)
        kind = _kind(folder) if folder.is_dir() else ""
        card = _card(folder)
        if not kind and not card:
            raise OutsideRuns(f"No run is named {name[:80]!r}. Choose one from the list.")
        pictures = folder / "pictures" if (folder / "pictures").is_dir() else folder
        started = {"measure": "measurement", "weaken": "weakening"}.get(card.get("kind", ""), "pictures")
        return Run(
            name=name,
            kind=kind or started,
            state="finished" if _finished(folder, kind, card) else "unfinished",
            counted=_counted(folder, kind),
            request=card.get("asked", {}),
            owner=card.get("owner", ""),
            changed=_changed(folder),
            pictures=tuple(sorted(file.name for file in pictures.glob("*.png")))[:400],
        )

    def picture(self, name: str, file: str) -> Path:
        """The path of an image of a run.

        Raises:
            OutsideRuns: The run has no image of this name.
        """
        folder = self.path(name)
        parts = ("pictures", file) if (folder / "pictures").is_dir() else (file,)
        path = self.path(name, *parts)
        if path.suffix != ".png" or not path.is_file():
            raise OutsideRuns(f"The run {name[:80]!r} has no such image.")
        return path

    def caption(self, run: Run) -> str:
        """What a run is about: the prompt or concept that was asked for, else the first image's prompt."""
        subject = run.request.get("prompt") or run.request.get("concept")
        return str(subject) if subject else (self.prompt(run, run.pictures[0]) if run.pictures else "")

    def prompt(self, run: Run, file: str) -> str:
        """The prompt that an image of a run holds; "" if it holds none."""
        from headwise.pictures import settings_in

        try:
            return settings_in(self.picture(run.name, file)).get("prompt", "")
        except (HeadwiseError, OSError):
            return ""

    def claim(self, name: str, owner: str, kind: str, request: dict[str, Any]) -> Path:
        """A new folder for a run, or the one that the same owner made for the same request.

        Raises:
            Forbidden: The name is taken.
        """
        folder = self.path(name)
        card = {"kind": kind, "asked": request, "owner": owner}
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if {key: _card(folder).get(key) for key in card} != card:
                raise Forbidden(f"A run named {name!r} already exists. Give another name.") from None
            return folder
        except OSError as error:
            raise UnwritableFolder(f"{folder} cannot be made: {error.strerror}.") from None
        write_whole(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False).encode())
        return folder

    def owned(self, name: str, owner: str) -> Run:
        """The run of a name, if it is this owner's.

        Raises:
            Forbidden: It is another session's, or of the command line.
        """
        run = self.run(name)
        if not run.owner or run.owner != owner:
            raise Forbidden(f"{name!r} was not started from this browser, so it cannot be changed from here.")
        return run

    def finish(self, name: str) -> None:
        """Note that a run is finished."""
        folder = self.path(name)
        write_whole(folder / CARD, json.dumps(_card(folder) | {"finished": True}, indent=1).encode())

    def remove(self, name: str, owner: str) -> None:
        """Remove a run of the owner, with everything in it."""
        self.owned(name, owner)
        shutil.rmtree(self.path(name))  # which follows no link


def _card(folder: Path) -> dict[str, Any]:
    """The contents of web.json; empty if it is missing or damaged."""
    try:
        card = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError):
        return {}
    types = {"kind": str, "asked": dict, "owner": str}
    valid = isinstance(card, dict) and all(isinstance(card.get(key), kind) for key, kind in types.items())
    return card if valid else {}


def _changed(folder: Path) -> float:
    """The time at which anything in a folder was last written; files that vanish meanwhile do not count."""
    times = [folder.stat().st_mtime]
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times)


def _kind(folder: Path) -> str:
    """The kind of run in a folder; "" if there is none."""
    if (folder / "relevance.safetensors").is_file():
        return "measurement"
    try:
        kind = kind_of(folder)
    except UnreadableFile:
        kind = "weakening"  # whatever it was: it is listed, and its page says what is wrong with it
    return KINDS.get(kind) or ("pictures" if next(folder.glob("*.png"), None) else "")


def _finished(folder: Path, kind: str, card: dict[str, Any]) -> bool:
    if card:
        return bool(card.get("finished"))
    if kind == "measurement":
        return (folder / "relevance.safetensors").is_file()
    if kind in SCORED:
        return bool(np.isfinite(_scores(folder).values).all())
    return True


def _counted(folder: Path, kind: str) -> int:
    """How many images are counted, by the run's own record of its sessions."""
    try:
        stretches = json.loads((folder / "run.json").read_bytes())["stretches"]
        return int(stretches[-1]["to"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0


def _scores(folder: Path) -> Any:
    from headwise.runs.scores import Scores

    try:
        return Scores.load(folder / "scores.safetensors")
    except UnreadableFile:
        return Scores.empty({"order": ()}, {})
