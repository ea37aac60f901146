"""Everything that the routes work with, and what each asking comes to, without a word of HTTP.

What is asked for becomes work for the queue. Relevance is looked up at once, so that a wrong name is refused
at once; the model is waited for by the worker.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from PIL import Image

from headwise.errors import HeadwiseError
from headwise.files import write_whole
from headwise.measuring.relevance import Relevance
from headwise.web import requests as asks
from headwise.web.jobs import Job, Jobs
from headwise.web.run_store import Folders, Forbidden, NotFound, Run
from headwise.web.session import Seen, Workbench

__all__ = ["Desk"]

SENT = 20  # pictures of one owner that are kept
Work = Callable[[Job], None]


@dataclass
class Desk:
    """A model, a folder of runs, and the queue between them.

    Args:
        bench: The model.
        folders: The runs.
        jobs: The queue.
    """

    bench: Workbench
    folders: Folders
    jobs: Jobs = field(default_factory=Jobs)
    seen: Seen = field(default_factory=Seen)
    sent: OrderedDict[str, tuple[str, Image.Image]] = field(default_factory=OrderedDict)
    decoding: threading.Lock = field(default_factory=threading.Lock)
    reporting: threading.Lock = field(default_factory=threading.Lock)

    def relevance(self, name: str) -> Relevance:
        """What was measured in a run, or of the model itself if no run is named."""
        return self.bench.relevance(self.folders.inside(name, "relevance.safetensors") if name else None)

    def maybe(self, name: str) -> Relevance | None:
        """The same, or None where nothing has been measured yet."""
        return None if not name and self.bench.file is None else self.relevance(name)

    def submit(self, ask: Any, owner: str) -> Job:
        """Put what somebody asks for into the queue.

        Raises:
            HeadwiseError: It names what is not there, or a run that is somebody else's.
        """
        kind, run = type(ask).__name__.lower(), getattr(ask, "name", "")
        work: Work = getattr(self, f"_{kind}")(ask, owner)
        # A newer picture takes the place of an older one that nobody waits for any more.
        slot = "" if run or kind == "suggest" else kind
        return self.jobs.submit(Job(owner, kind, ask.model_dump(), work, slot=slot, run=run))

    def resume(self, name: str, owner: str) -> Job:
        """Go on with a run of one's own."""
        run = self.folders.mine(name, owner)
        kinds: dict[str, Any] = {"measurement": asks.Measure, "weakening": asks.Weaken}
        if run.kind not in kinds:
            raise HeadwiseError(f"{name!r} is not a run that can go on.")
        return self.submit(kinds[run.kind].model_validate(run.asked), owner)

    def keep(self, job: Job, name: str) -> None:
        """Put the pictures of a job into a folder of their own."""
        if not job.pictures:
            raise HeadwiseError("There is no picture to keep.")
        folder = self.folders.claim(name, job.owner, job.kind, job.asked)
        for number, found in enumerate(one for one in job.found if "picture" in one):
            column = "".join(c if c.isalnum() or c in "-." else "-" for c in found.get("column", job.kind))
            write_whole(folder / f"{number:03d}-{column}.png", job.pictures[found["picture"]])
        self.folders.finish(name)

    def remove(self, name: str, owner: str) -> None:
        """Remove a run of one's own that is not at work."""
        self.folders.mine(name, owner)
        if self.jobs.on(name) is not None:
            raise Forbidden(f"{name!r} is at work. Cancel it first.")
        self.folders.remove(name, owner)

    def receive(self, content: bytes, owner: str) -> tuple[str, Image.Image]:
        """Take a picture that was sent, at the model's own size.

        One is decoded at a time, as a picture of many pixels takes much memory.
        """
        from headwise.pictures import fitted, picture_in

        size = self.bench.size
        with self.decoding:
            picture = fitted(picture_in(content), size)
        id = token_hex(8)
        self.sent[id] = (owner, picture)
        mine = [key for key, (whose, _) in self.sent.items() if whose == owner]
        for old in [*mine[:-SENT], *list(self.sent)[: -10 * SENT]]:
            self.sent.pop(old, None)
        return id, picture

    def picture(self, id: str, owner: str) -> Image.Image:
        """A picture that was sent, for whoever sent it."""
        whose, picture = self.sent.get(id, ("", None))
        if picture is None or whose != owner:
            raise NotFound("That picture is not here any more. Send it again.")
        return picture

    def maps(self, job: Job) -> Any:
        """Where heads listen in a picture that was drawn to be explored."""
        maps = self.seen.get(job.id)
        if maps is None:
            raise NotFound("The maps of this picture are not here any more. Draw it again.")
        return maps

    def recipe(self, kind: str, asked: dict[str, Any]) -> dict[str, str]:
        """What was asked, as Python and as a command line."""
        tools = self.bench.tools
        ask = getattr(asks, kind.title()).model_validate(asked)
        name, run = getattr(ask, "relevance", ""), getattr(ask, "name", "")
        own: Any = "emoji" if self.bench.built_in else self.bench.file
        setting = tools.recipes.Setting(
            self.bench.model,
            self.folders.root / name / "relevance.safetensors" if name else own,
            self.bench.judge_name,
            self.folders.root / run if run else None,
            tools.running.ks_of(self.relevance(name)) if kind == "weaken" else (),
        )
        recipes = tools.recipes
        return {"python": recipes.python_of(ask, setting), "command": recipes.command_of(ask, setting)}

    def recipe_of(self, name: str) -> dict[str, str]:
        """What made a run."""
        folder, run = self.folders.inside(name), self.folders.run(name)
        if run.owner:
            return self.recipe(json.loads((folder / "web.json").read_bytes())["kind"], run.asked)
        said = self.folders.inside(name, "command.txt")
        if not said.is_file():
            raise HeadwiseError("This run was not started here, and does not say what made it.")
        return {"python": "", "command": said.read_text(encoding="utf-8", errors="replace")[:4000].strip()}

    def report(self, name: str) -> bytes:
        """The page of a run, written anew where its results are younger."""
        from headwise.report.measurement import report

        self.bench.tools  # noqa: B018  everything is imported then
        self.folders.run(name)
        folder, page = self.folders.inside(name), self.folders.inside(name, "index.html")
        results = [file for name in ("relevance", "scores") for file in folder.glob(f"**/{name}.safetensors")]
        with self.reporting:
            if not page.is_file() or any(file.stat().st_mtime > page.stat().st_mtime for file in results):
                report(folder)
            return page.read_bytes()

    def told(self, run: Run, owner: str) -> dict[str, Any]:
        """What somebody is told of a run."""
        job = self.jobs.on(run.name)
        return {
            "name": run.name,
            "kind": run.kind,
            "state": run.state if job is None else job.state,
            "counted": run.counted,
            "of": run.asked.get("pictures"),
            "changed": run.changed,
            "pictures": len(run.pictures),
            "mine": bool(run.owner) and run.owner == owner,
            "made_here": bool(run.owner),
            "measured": self.folders.inside(run.name, "relevance.safetensors").is_file(),
            "job": job.id if job is not None and job.owner == owner else None,
            "done": job.done if job else None,
            "total": job.total if job else None,
        }

    def sure(self, run: Run) -> float | None:
        """The median split-half correlation of what a measurement has counted so far."""
        from headwise.measuring.reliability import split_half
        from headwise.measuring.votes import Votes

        votes = self.folders.inside(run.name, "votes.safetensors")
        if not votes.is_file():
            return None
        median = float(np.median(split_half(Votes.load(votes))))
        return median if median == median else None

    def _explore(self, ask: asks.Explore, owner: str) -> Work:
        return lambda job: self.bench.tools.explore.explore(self.bench, self.seen, ask, job)

    def _generate(self, ask: asks.Generate, owner: str) -> Work:
        found = self.relevance(ask.relevance)
        return lambda job: self.bench.tools.drawing.generate(self.bench, found, ask, job)

    def _strip(self, ask: asks.Strip, owner: str) -> Work:
        found = self.relevance(ask.relevance)
        return lambda job: self.bench.tools.drawing.strip(self.bench, found, ask, job)

    def _suggest(self, ask: asks.Suggest, owner: str) -> Work:
        found = self.relevance(ask.relevance)
        return lambda job: self.bench.tools.drawing.suggest(self.bench, found, ask, job)

    def _edit(self, ask: asks.Edit, owner: str) -> Work:
        found = self.maybe(ask.relevance)
        sent = None if ask.picture is None else self.picture(ask.picture, owner)
        return lambda job: self.bench.tools.drawing.edit(self.bench, found, ask, sent, job)

    def _compose(self, ask: asks.Compose, owner: str) -> Work:
        found = self.maybe(ask.relevance)
        return lambda job: self.bench.tools.drawing.compose(self.bench, found, ask, job)

    def _measure(self, ask: asks.Measure, owner: str) -> Work:
        folder = self._claimed(ask, owner)
        if ask.prompts:
            write_whole(folder / "prompts.txt", "".join(f"{prompt}\n" for prompt in ask.prompts).encode())

        def work(job: Job) -> None:
            self.bench.tools.running.measure(self.bench, folder, ask, job)
            self.folders.finish(ask.name)

        return work

    def _weaken(self, ask: asks.Weaken, owner: str) -> Work:
        found = self.relevance(ask.relevance)
        folder = self._claimed(ask, owner)

        def work(job: Job) -> None:
            self.bench.tools.running.weaken(self.bench, found, folder, ask, job)
            self.folders.finish(ask.name)

        return work

    def _claimed(self, ask: asks.Measure | asks.Weaken, owner: str) -> Path:
        busy = self.jobs.on(ask.name)
        if busy is not None:
            raise Forbidden(f"{ask.name!r} is already {busy.state}.")
        return self.folders.claim(ask.name, owner, type(ask).__name__.lower(), ask.model_dump())
