r"""The folder of runs: what is there, whose it is, and nothing outside it.

A name that a browser sends is looked up as it is, its links followed, and refused unless what was found lies
in the folder of runs. Of a run that was started here, `web.json` says what was asked and by whom (the hash of
a session); only that session may go on with it or remove it. Runs of the command line have no such file: they
are shown, and nobody removes them from here.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwise.errors import HeadwiseError, UnreadableFile, UnwritableFolder
from headwise.files import write_whole

__all__ = ["Folders", "NotFound", "Forbidden", "OutsideRuns", "Run"]

CARD = "web.json"
COUNTS = {"votes.safetensors": "measurement", "relevance.safetensors": "measurement"}


class OutsideRuns(HeadwiseError):
    """A name that is not in the folder of runs."""


class NotFound(HeadwiseError):
    """Something that was here and is not any more, or never was."""


class Forbidden(HeadwiseError):
    """A run of somebody else."""


@dataclass(frozen=True)
class Run:
    """One folder.

    Args:
        name: Of the folder.
        kind: "measurement", "weakening", "polysemy", "editing", "multi-concept", "trials", "pictures".
        state: "finished", or "unfinished".
        counted: How many pictures are counted.
        asked: What was asked for, of runs started here; with the kind of asking.
        owner: Whose it is; "" for runs of the command line.
        changed: When something last changed in it, seconds since 1970.
        pictures: The pictures in it, by file name.
    """

    name: str
    kind: str
    state: str
    counted: int
    asked: dict[str, Any]
    owner: str
    changed: float
    pictures: tuple[str, ...]


class Folders:
    """The runs in a folder.

    Args:
        root: The folder; made when the first run is started.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def inside(self, name: str, *parts: str) -> Path:
        """Where a run is, or a file in it.

        Raises:
            OutsideRuns: It is not in the folder of runs.
        """
        every = (name, *parts)
        plain = all(part.isprintable() and part.strip(". ") and not set(part) & set("/\\") for part in every)
        if plain:
            root = self.root.resolve()
            found = root.joinpath(*every).resolve()
            if (root / name).resolve() == root / name and found.is_relative_to(root / name):
                return self.root.joinpath(*every)
        raise OutsideRuns(f"There is no run {name[:80]!r}. Choose one of the list.")

    def all(self) -> list[Run]:
        """Every run, the latest first."""
        found = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            try:
                if folder.is_dir() and self.inside(folder.name):
                    found.append(self.run(folder.name))
            except (HeadwiseError, OSError):  # a link that leads elsewhere, or no run
                continue
        return sorted(found, key=lambda run: -run.changed)

    def run(self, name: str) -> Run:
        """One run.

        Raises:
            OutsideRuns: There is none of this name.
        """
        folder = self.inside(name)
        kind = _kind(folder) if folder.is_dir() else ""
        card = _card(folder)
        if not kind and not card:
            raise OutsideRuns(f"There is no run {name[:80]!r}. Choose one of the list.")
        inner = "pictures" if (folder / "pictures").is_dir() else "."
        return Run(
            name=name,
            kind=kind
            or {"measure": "measurement", "weaken": "weakening"}.get(card.get("kind", ""), "pictures"),
            state="finished" if _finished(folder, kind, card) else "unfinished",
            counted=_counted(folder, kind),
            asked=card.get("asked", {}),
            owner=card.get("owner", ""),
            changed=_changed(folder),
            pictures=tuple(sorted(file.name for file in (folder / inner).glob("*.png")))[:400],
        )

    def picture(self, name: str, file: str) -> Path:
        """A picture of a run.

        Raises:
            OutsideRuns: There is none of this name.
        """
        folder = self.inside(name)
        parts = ("pictures", file) if (folder / "pictures").is_dir() else (file,)
        found = self.inside(name, *parts)
        if found.suffix != ".png" or not found.is_file():
            raise OutsideRuns(f"The run {name[:80]!r} has no such picture.")
        return found

    def claim(self, name: str, owner: str, kind: str, asked: dict[str, Any]) -> Path:
        """A new folder for somebody's run, or the one that is theirs already.

        Raises:
            Forbidden: The name is taken.
        """
        folder = self.inside(name)
        card = {"kind": kind, "asked": asked, "owner": owner}
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if {key: _card(folder).get(key) for key in card} != card:
                raise Forbidden(f"There is a run {name!r} already. Give another name.") from None
            return folder
        except OSError as error:
            raise UnwritableFolder(f"{folder} cannot be made: {error.strerror}.") from None
        write_whole(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False).encode())
        return folder

    def mine(self, name: str, owner: str) -> Run:
        """A run that is the owner's.

        Raises:
            Forbidden: It is not.
        """
        run = self.run(name)
        if not run.owner or run.owner != owner:
            raise Forbidden(f"{name!r} was not started from this browser, so it is not changed from here.")
        return run

    def finish(self, name: str) -> None:
        """Note that a run is whole."""
        folder = self.inside(name)
        write_whole(folder / CARD, json.dumps(_card(folder) | {"finished": True}, indent=1).encode())

    def remove(self, name: str, owner: str) -> None:
        """Remove a run of one's own, with all that is in it."""
        self.mine(name, owner)
        shutil.rmtree(self.inside(name))  # which follows no link


def _card(folder: Path) -> dict[str, Any]:
    """What web.json says, if it is there and says it well."""
    try:
        found = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError):
        return {}
    shape = {"kind": str, "asked": dict, "owner": str}
    whole = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in shape.items())
    return found if whole else {}


def _changed(folder: Path) -> float:
    """When anything in a folder was last written; what a run takes away meanwhile does not count."""
    times = [folder.stat().st_mtime]
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times)


def _kind(folder: Path) -> str:
    """What lies in a folder; "" for nothing that is known."""
    for name, kind in COUNTS.items():
        if (folder / name).is_file():
            return kind
    if (folder / "scores.safetensors").is_file():
        axes = _scores(folder).axes
        if "measure" in axes:
            return "editing" if "pair" in axes else "multi-concept"
        return "polysemy" if "method" in axes else "weakening"
    if next(folder.glob("*/scores.safetensors"), None):
        return "trials"
    return "pictures" if next(folder.glob("*.png"), None) else ""


def _finished(folder: Path, kind: str, card: dict[str, Any]) -> bool:
    if card:
        return bool(card.get("finished"))
    if kind == "measurement":
        return (folder / "relevance.safetensors").is_file()
    if kind in ("weakening", "polysemy", "editing", "multi-concept"):
        return bool(np.isfinite(_scores(folder).values).all())
    return True


def _counted(folder: Path, kind: str) -> int:
    """Pictures counted, by what the run says of its own stretches of work."""
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
