r"""One thing at a time: a queue of jobs, and one thread that does them.

A pipeline holds state while it draws, so there is one worker. Short jobs go first, those of whoever was
served longest ago before others'; a long run, whose progress is safe on the disk, *steps aside* between two
of its batches when a short job waits, and goes on afterwards. A newer job in the same slot of the same owner
takes an older one's place, as when a slider moves.

A job belongs to the session that started it and outlives the tab: whoever comes back finds it as it is.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal

from headwise.errors import HeadwiseError

__all__ = ["Cancelled", "Job", "Jobs", "Yield", "TooManyJobs"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]
AT_ONCE = 12  # unfinished jobs of one owner
KEPT = 40  # finished jobs of one owner
KEPT_BYTES = 256 * 2**20  # of all pictures of finished jobs
SELDOM = 0.2  # seconds between two words about progress

log = logging.getLogger("headwise.web")


class Cancelled(Exception):
    """The owner does not want it any more."""


class Yield(Exception):
    """A short job waits; this one goes on later."""


class TooManyJobs(HeadwiseError):
    """More jobs than one session may have in the queue."""


@dataclass(eq=False)
class Job:
    """Something asked for, what has come of it so far, and how it goes.

    Args:
        owner: Whose.
        kind: What was asked for, such as "generate".
        asked: With which arguments, JSON-able.
        work: What is to be done; it is given the job.
        slot: A newer job of the same owner and slot takes this one's place.
        run: The folder it writes to, which makes it a long one.
    """

    owner: str
    kind: str
    asked: dict[str, Any]
    work: Callable[["Job"], None]
    slot: str = ""
    run: str = ""
    id: str = field(default_factory=lambda: token_hex(8))
    state: State = "waiting"
    done: int = 0
    total: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    version: int = 0
    wanted: bool = True
    queue: "Jobs | None" = None
    _told: float = 0.0

    @property
    def long(self) -> bool:
        """Does its progress survive on the disk?"""
        return bool(self.run)

    @property
    def over(self) -> bool:
        """Will nothing more come?"""
        return self.state in ("done", "failed", "cancelled")

    def go_on(self) -> None:
        """To be called often: Cancelled if the job is not wanted any more."""
        if not self.wanted:
            raise Cancelled

    def step(self) -> None:
        """One of `total` is done; Cancelled if the job is not wanted any more."""
        self.go_on()
        self.count(self.done + 1, self.total)

    def count(self, done: int, total: int) -> None:
        """So many of so many are done."""
        self.done, self.total = done, max(done, total)
        if time.monotonic() - self._told > SELDOM:
            self._tell()

    def count_run(self, done: int, total: int) -> None:
        """The same between two batches of a run: it also steps aside here."""
        self.go_on()
        self.count(done, total)
        if done < total and self.queue is not None and self.queue.short_waits():
            raise Yield

    def add(self, picture: bytes | None = None, **found: Any) -> None:
        """Something has come: said, and shown if there is a picture."""
        if picture is not None:
            self.pictures.append(picture)
            found["picture"] = len(self.pictures) - 1
        self.found.append(found)
        self._tell()

    def become(self, state: State, error: str = "") -> None:
        """Go over to another state."""
        self.state, self.error = state, error
        self._tell()

    def told(self) -> dict[str, Any]:
        """What its owner is told."""
        names = ("id", "kind", "asked", "run", "state", "done", "total", "error", "seconds", "version")
        return {name: getattr(self, name) for name in names} | {"found": list(self.found)}

    def _tell(self) -> None:
        self.version, self._told = self.version + 1, time.monotonic()


class Jobs:
    """The queue and its worker.

    Args:
        start: Whether the worker starts at once; tests may start it later.
    """

    def __init__(self, start: bool = True) -> None:
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._served: dict[str, float] = {}
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="headwise-worker", daemon=True)
        if start:
            self._worker.start()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue.

        Raises:
            TooManyJobs: Its owner has too many unfinished ones.
        """
        with self._changed:
            older = [one for one in self._jobs.values() if one.owner == job.owner and not one.over]
            replaced = [one for one in older if job.slot and one.slot == job.slot]
            if len(older) - len(replaced) >= AT_ONCE:
                raise TooManyJobs(f"{len(older)} of your jobs are not finished. Wait for one, or cancel one.")
            for one in replaced:
                self._stop(one)
            job.queue, self._jobs[job.id] = self, job
            self._forget(job.owner)
            self._changed.notify_all()
        return job

    def get(self, id: str, owner: str) -> Job | None:
        """A job, for its owner."""
        job = self._jobs.get(id)
        return job if job is not None and job.owner == owner else None

    def of(self, owner: str) -> list[Job]:
        """All jobs of an owner, oldest first."""
        return [job for job in list(self._jobs.values()) if job.owner == owner]

    def on(self, run: str) -> Job | None:
        """The unfinished job that writes to a folder."""
        return next((job for job in list(self._jobs.values()) if job.run == run and not job.over), None)

    def before(self, job: Job) -> int:
        """How many unfinished jobs were asked for before this one."""
        older = list(self._jobs.values())
        return sum(not one.over for one in older[: older.index(job)])

    def cancel(self, job: Job) -> None:
        """Take a job back: at once if it waits, else at the next denoiser call."""
        with self._changed:
            self._stop(job)

    def short_waits(self) -> bool:
        """Does a short job wait?"""
        return any(job.state == "waiting" and not job.long for job in list(self._jobs.values()))

    def close(self, seconds: float = 10.0) -> None:
        """Stop everything; runs keep what they counted."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                self._stop(job)
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join(seconds)

    def _stop(self, job: Job) -> None:
        job.wanted = False
        if job.state == "waiting":
            job.become("cancelled")

    def _work(self) -> None:
        while (job := self._next()) is not None:
            _do(job)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                waiting = [job for job in self._jobs.values() if job.state == "waiting"]
                if waiting:
                    job = min(waiting, key=lambda job: (job.long, self._served.get(job.owner, 0.0)))
                    self._served[job.owner] = time.monotonic()
                    job.become("running")
                    return job
                self._changed.wait()
        return None

    def _forget(self, owner: str) -> None:
        """Finished jobs beyond what is kept, oldest first."""
        over = [job for job in self._jobs.values() if job.over]
        mine = [job for job in over if job.owner == owner]
        gone = mine[: max(0, len(mine) - KEPT)]
        sizes = {job.id: sum(map(len, job.pictures)) for job in over}
        total = sum(sizes.values())
        for job in over:
            if total <= KEPT_BYTES:
                break
            gone.append(job)
            total -= sizes[job.id]
        for job in gone:
            self._jobs.pop(job.id, None)


def _do(job: Job) -> None:
    """Do a job to whatever end; nothing that happens in it ends the worker."""
    started = time.monotonic()
    try:
        job.go_on()
        job.work(job)
        end: tuple[State, str] = ("done", "")
    except Yield:
        end = ("waiting", "") if job.wanted else ("cancelled", "")
    except Cancelled:
        end = ("cancelled", "")
    except HeadwiseError as error:
        end = ("failed", str(error))
    except BaseException as error:  # the next job is somebody else's
        log.exception("The job %s %s failed.", job.kind, job.id)
        end = (
            "failed",
            f"{type(error).__name__}: the server's own output says more. What was counted is kept.",
        )
    job.seconds += time.monotonic() - started
    job.become(*end)
