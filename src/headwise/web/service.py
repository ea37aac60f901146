"""What the routes call, without HTTP: the model, the runs, and the queue between them.

A request becomes a job of the queue. The relevance, the folder and the image that it names are looked up at
once, so that a wrong name is refused at once; the worker waits for the model.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from PIL import Image

from headwise.errors import HeadwiseError, ModelNotLoaded
from headwise.files import write_whole
from headwise.measuring.relevance import Relevance
from headwise.web import requests
from headwise.web.jobs import Job, Jobs
from headwise.web.run_store import CARD, Forbidden, NotFound, Run, RunStore
from headwise.web.session import MapCache, ModelSession
from headwise.web.weakenings import curves

__all__ = ["REQUESTS", "Service"]

MAX_UPLOADS = 20  # images of one owner that are kept; ten times as many of all owners
REQUESTS = {kind.__name__.lower(): kind for kind in (
    requests.Explore, requests.Explain, requests.Mute, requests.Generate, requests.Strip, requests.Suggest,
    requests.Edit, requests.Compose, requests.Measure, requests.Weaken,
)}  # fmt: skip


@dataclass
class Service:
    """A model, a folder of runs, and the queue between them.

    Args:
        session: The model with its relevance.
        runs: The folder of runs.
        jobs: The queue.
        maps: The attention maps of the last explored images.
        uploads: The uploaded images with their owners, by id.
    """

    session: ModelSession
    runs: RunStore
    jobs: Jobs = field(default_factory=Jobs)
    maps: MapCache = field(default_factory=MapCache)
    uploads: OrderedDict[str, tuple[str, Image.Image]] = field(default_factory=OrderedDict)
    _imported: threading.Event = field(default_factory=threading.Event)
    _importable: bool = True
    _decoding: threading.Lock = field(default_factory=threading.Lock)
    _reporting: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Begin to import what is large and to load the model, in a thread of its own."""
        threading.Thread(target=self._load, name="headwise-load", daemon=True).start()

    def _load(self) -> None:
        # diffusers is imported in this one thread: two threads that import it find it half initialised
        try:
            from headwise.web import explain_jobs, explore_jobs, picture_jobs, run_jobs  # noqa: F401
        except Exception as error:
            self.session.fail(error)
            self._importable = False
        finally:
            self._imported.set()
        if self._importable:
            self.session.load()

    def _wait_for_imports(self) -> None:
        self._imported.wait()
        if not self._importable:
            raise ModelNotLoaded(self.session.error)

    def relevance(self, name: str) -> Relevance:
        """The relevance that a run measured, or one of the model's own, as requests name them."""
        return self.session.relevance(self._file_of(name))

    def _file_of(self, name: str) -> Path | None:
        """The relevance file of a name; None where nothing has been measured yet."""
        files = self.session.relevance_files
        if name and name not in files:
            return self.runs.path(name, "relevance.safetensors")
        return files.get(name)

    def relevances(self) -> list[dict[str, str]]:
        """The relevance that fits the model, by name: the model's own, and that of its runs."""
        files = self.session.relevance_files
        listed = [
            (name, "built in" if self.session.built_in(file) else f"of {self.session.model}")
            for name, file in files.items()
            if not name or file != files.get("")  # "" stands for one of the others
        ]
        listed += [(run.name, run.name) for run in self.runs.all() if self._is_of_this_model(run.name)]
        return [{"name": name, "title": f"{title}, by {self.relevance(name).kind}"} for name, title in listed]

    def relevance_or_none(self, name: str) -> Relevance | None:
        """The same; None for "" where nothing has been measured yet."""
        return None if not name and self.session.file is None else self.relevance(name)

    def submit(self, request: Any, owner: str) -> Job:
        """Put a request into the queue.

        Raises:
            HeadwiseError: It names what does not exist, or a run of another session.
        """
        kind, run = type(request).__name__.lower(), getattr(request, "name", "")
        work = partial(self._run, request, self._inputs(request, owner))
        # A newer image replaces an older one that is no longer of interest.
        slot = "" if run or kind == "suggest" else kind
        return self.jobs.submit(Job(owner, kind, request.model_dump(), work, slot=slot, run=run))

    def _inputs(self, request: Any, owner: str) -> dict[str, Any]:
        """What a request names: a relevance, an uploaded image, a folder."""
        self.session.loading_of(request)  # refuses the names of LoRA files that are not here
        inputs: dict[str, Any] = {}
        if isinstance(request, requests.Edit | requests.Compose):
            inputs["relevance"] = self.relevance_or_none(request.relevance)
        elif isinstance(request, requests.Generate | requests.Strip | requests.Suggest | requests.Weaken):
            inputs["relevance"] = self.relevance(request.relevance)
        if isinstance(request, requests.Explore):
            inputs["maps"] = self.maps
        if isinstance(request, requests.Edit):
            inputs["upload"] = None if request.picture is None else self.upload(request.picture, owner)
        if isinstance(request, requests.Measure | requests.Weaken):
            inputs["folder"] = folder = self._claim(request, owner)
            if isinstance(request, requests.Measure) and request.prompts:
                lines = "".join(f"{prompt}\n" for prompt in request.prompts)
                write_whole(folder / "prompts.txt", lines.encode())
        return inputs

    def _claim(self, request: requests.Measure | requests.Weaken, owner: str) -> Path:
        busy = self.jobs.writing_to(request.name)
        if busy is not None:
            raise Forbidden(f"{request.name!r} is already {busy.state}.")
        kind = type(request).__name__.lower()
        return self.runs.claim(request.name, owner, kind, request.model_dump())

    def _run(self, request: Any, inputs: dict[str, Any], job: Job) -> None:
        """Do what was requested; called by the worker."""
        self._wait_for_imports()
        from headwise.web import explain_jobs, explore_jobs, picture_jobs, run_jobs

        work: dict[str, Any] = {
            "explore": explore_jobs.explore,
            "explain": explain_jobs.explain,
            "mute": explain_jobs.mute,
            "generate": picture_jobs.generate,
            "strip": picture_jobs.strip,
            "suggest": picture_jobs.suggest,
            "edit": picture_jobs.edit,
            "compose": picture_jobs.compose,
            "measure": run_jobs.measure,
            "weaken": run_jobs.weaken,
        }
        with self.session.set_up_for(request):
            self._require_size(request)
            work[job.kind](self.session, request, job, **inputs)
        if job.run:
            self.runs.finish(job.run)

    def _require_size(self, request: Any) -> None:
        from headwise.model.generate import require_size

        if isinstance(request, requests.Picture):
            require_size(self.session.pipe, request.height, request.width)

    def resume(self, name: str, owner: str) -> Job:
        """Continue a run of the owner."""
        run = self.runs.owned(name, owner)
        kinds: dict[str, Any] = {"measurement": requests.Measure, "weakening": requests.Weaken}
        if run.kind not in kinds:
            raise HeadwiseError(f"{name!r} is not a run that can be resumed.")
        return self.submit(kinds[run.kind].model_validate(run.request), owner)

    def keep(self, job: Job, name: str, strip: Job | None = None) -> None:
        """Write the images of a job, and of the strip beside it, into a folder of their own."""
        if not job.pictures:
            raise HeadwiseError("This job has no image to keep.")
        folder = self.runs.claim(name, job.owner, job.kind, job.request)
        jobs = [job] if strip is None else [job, strip]
        images = [(each, result) for each in jobs for result in each.results if "picture" in result]
        for number, (each, result) in enumerate(images):
            column = "".join(c if c.isalnum() or c in "-." else "-" for c in result.get("column", job.kind))
            write_whole(folder / f"{number:03d}-{column}.png", each.pictures[result["picture"]])
        self.runs.finish(name)

    def remove(self, name: str, owner: str) -> None:
        """Remove a run of the owner that no job writes to."""
        self.runs.owned(name, owner)
        if self.jobs.writing_to(name) is not None:
            raise Forbidden(f"{name!r} is still at work. Cancel it first.")
        self.runs.remove(name, owner)

    def receive(self, content: bytes, owner: str) -> tuple[str, Image.Image, str]:
        """Keep an uploaded image at the size of the model's images; with its id, and what was cropped.

        One image is decoded at a time, because an image of many pixels takes much memory.
        """
        from headwise.pictures import cropped, fitted, picture_in

        size = self.session.size
        with self._decoding:
            sent = picture_in(content)
            image = fitted(sent, size)
        id = token_hex(8)
        self.uploads[id] = (owner, image)
        of_owner = [key for key, (other, _) in self.uploads.items() if other == owner]
        for key in [*of_owner[:-MAX_UPLOADS], *list(self.uploads)[: -10 * MAX_UPLOADS]]:
            self.uploads.pop(key, None)
        return id, image, cropped(sent, size)

    def upload(self, id: str, owner: str) -> Image.Image:
        """An uploaded image, for its owner."""
        image_owner, image = self.uploads.get(id, ("", None))
        if image is None or image_owner != owner:
            raise NotFound("That image is no longer on the server. Upload it again.")
        return image

    def maps_of(self, job: Job) -> Any:
        """The attention maps of an explored image."""
        maps = self.maps.get(job.id)
        if maps is None:
            raise NotFound("The maps of this image are no longer on the server. Generate it again.")
        return maps

    def head_map(self, job: Job, head: int | None, layer: int | None) -> dict[str, Any]:
        """The attention of a head, a layer or all heads together to each word of an explored image."""
        maps = self.maps_of(job)
        from headwise.web.explore_jobs import map_of_head

        return map_of_head(maps, head, layer)

    def region(self, job: Job, name: str, box: tuple[float, float, float, float]) -> dict[str, Any]:
        """The words and concepts that drive a region of an explored image."""
        maps = self.maps_of(job)
        from headwise.web.explore_jobs import region_of

        return region_of(maps, self.relevance_or_none(name), box)

    def weakening_options(self, name: str) -> dict[str, Any]:
        """The concepts that can be weakened, and the numbers of heads."""
        relevance = self.relevance(name)
        self._wait_for_imports()
        from headwise.web.run_jobs import concepts_to_weaken, ks_of

        return {"concepts": concepts_to_weaken(self.session, relevance), "ks": list(ks_of(relevance))}

    def weakening(self, name: str) -> dict[str, Any]:
        """The results of a run that weakened heads."""
        self.runs.run(name)
        return curves(self.runs.path(name))

    def snippets(self, kind: str, request: dict[str, Any], **looked_at: Any) -> dict[str, str]:
        """A request as Python and as a command line; `looked_at` are the fields of `Setting` of that name."""
        self._wait_for_imports()
        from headwise.web.run_jobs import ks_of
        from headwise.web.snippets import Setting, command_of, python_of

        checked = REQUESTS[kind].model_validate(request)
        name, run = getattr(checked, "relevance", ""), getattr(checked, "name", "")
        file = self._file_of(name)
        relevance = self.relevance(name) if file is not None and hasattr(checked, "relevance") else None
        setting = Setting(
            self.session.model,
            self.session.built_in(file) or file,
            self.session.scorer_name,
            self.runs.root / run if run else Path(),
            ks_of(relevance) if relevance is not None and kind == "weaken" else (),
            kind="votes" if relevance is None else relevance.kind,
            loading=self.session.loading_of(checked),
            **looked_at,
        )
        return {"python": python_of(checked, setting), "command": command_of(checked, setting)}

    def snippets_of_run(self, name: str) -> dict[str, str]:
        """The Python and the command line that made a run."""
        folder, run = self.runs.path(name), self.runs.run(name)
        if run.owner:
            return self.snippets(json.loads((folder / CARD).read_bytes())["kind"], run.request)
        command = self.runs.path(name, "command.txt")
        if not command.is_file():
            raise HeadwiseError(
                "This run was not started from the page, and its folder has no record of its command."
            )
        return {"python": "", "command": command.read_text(encoding="utf-8", errors="replace")[:4000].strip()}

    def report(self, name: str) -> bytes:
        """The report of a run, written again where its results are newer."""
        self._wait_for_imports()
        from headwise.report.measurement import report

        self.runs.run(name)
        folder, page = self.runs.path(name), self.runs.path(name, "index.html")
        results = [file for name in ("relevance", "scores") for file in folder.glob(f"**/{name}.safetensors")]
        with self._reporting:
            if not page.is_file() or any(file.stat().st_mtime > page.stat().st_mtime for file in results):
                report(folder)
            return page.read_bytes()

    def run_to_json(self, run: Run, owner: str) -> dict[str, Any]:
        """A run as a session sees it."""
        job = self.jobs.writing_to(run.name)
        return {
            "name": run.name,
            "kind": run.kind,
            "state": run.state if job is None else job.state,
            "counted": run.counted,
            # By effect it is the number of images of each concept.
            "of": None if run.request.get("by") == "effect" else run.request.get("pictures"),
            "changed": run.changed,
            "pictures": len(run.pictures),
            "thumbnail": run.pictures[0] if run.pictures else None,
            "caption": self.runs.caption(run),
            "mine": bool(run.owner) and run.owner == owner,
            "made_here": bool(run.owner),
            "measured": self.runs.path(run.name, "relevance.safetensors").is_file(),
            "of_this_model": self._is_of_this_model(run.name),
            "job": job.id if job is not None and job.owner == owner else None,
            "done": job.done if job else None,
            "total": job.total if job else None,
        }

    def _is_of_this_model(self, name: str) -> bool:
        """Whether this run has measured the model of the page."""
        try:
            return self.relevance(name).settings.get("model") in self.session.names
        except HeadwiseError:
            return False

    def split_half(self, run: Run) -> float | None:
        """The median split-half correlation of what a measurement has counted so far."""
        from headwise.measuring.counting import counted_in, relevance_of

        counted = counted_in(self.runs.path(run.name))
        if counted is None:
            return None
        median = relevance_of(counted).split_half_median
        return median if np.isfinite(median) else None
