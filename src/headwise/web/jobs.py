r"""One job at a time: a queue of jobs, and one worker thread.

A pipeline holds state while it generates, so there is one worker. Short jobs go first, and among them those
of the owner who was served longest ago; a run, whose progress is safe on the disk, *yields* between two of
its batches when a short job waits, and continues afterwards. A newer job in the same slot of the same owner
replaces an older one, as when a slider moves.

A job belongs to the session that started it and outlives the tab: a browser that comes back finds it again.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal

from headwise.errors import HeadwiseError

__all__ = ["Cancelled", "Job", "Jobs", "TooManyJobs", "Yield"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]
MAX_UNFINISHED = 12  # jobs of one owner
MAX_FINISHED = 40  # jobs of one owner that are kept
MAX_BYTES = 256 * 2**20  # of all images of finished jobs
NEWS_INTERVAL = 0.2  # seconds between two versions of a job that differ in progress alone

log = logging.getLogger("headwise.web")


class Cancelled(Exception):
    """The owner has cancelled the job."""


class Yield(Exception):
    """A short job waits; this one continues later."""


class TooManyJobs(HeadwiseError):
    """More jobs than one session may have in the queue."""


@dataclass(eq=False)
class Job:
    """A request, its results so far, and its progress.

    Args:
        owner: The session that started it, as `security.owner_of` names it.
        kind: The kind of request, such as "generate".
        request: The request's fields, which can be written as JSON.
        work: The function that does the job; its argument is the job.
        slot: A newer job of the same owner in the same slot replaces this one; "" means none.
        run: The name of the run that the job writes to; "" for a short job.
    """

    owner: str
    kind: str
    request: dict[str, Any]
    work: Callable[["Job"], None]
    slot: str = ""
    run: str = ""
    id: str = field(default_factory=lambda: token_hex(8))
    state: State = "waiting"
    done: int = 0
    total: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    version: int = 0
    cancelled: bool = False
    queue: "Jobs | None" = None
    _news_at: float = 0.0

    @property
    def is_run(self) -> bool:
        """Whether the progress of this job is kept on the disk."""
        return bool(self.run)

    @property
    def over(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.state in ("done", "failed", "cancelled")

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` if the owner has cancelled the job; work calls this often."""
        if self.cancelled:
            raise Cancelled

    def step(self) -> None:
        """Advance the progress by one, unless the job is cancelled."""
        self.raise_if_cancelled()
        self.set_progress(self.done + 1, self.total)

    def set_progress(self, done: int, total: int) -> None:
        """Record that `done` of `total` steps are done."""
        self.done, self.total = done, max(done, total)
        if time.monotonic() - self._news_at > NEWS_INTERVAL:
            self._note_change()

    def set_run_progress(self, done: int, total: int) -> None:
        """The same between two batches of a run, which may yield or be cancelled here."""
        self.raise_if_cancelled()
        self.set_progress(done, total)
        if done < total and self.queue is not None and self.queue.short_job_waits():
            raise Yield

    def add_result(self, picture: bytes | None = None, **result: Any) -> None:
        """Add a result, with the PNG of its image if it has one."""
        if picture is not None:
            self.pictures.append(picture)
            result["picture"] = len(self.pictures) - 1
        self.results.append(result)
        self._note_change()

    def enter(self, state: State, error: str = "") -> None:
        """Enter another state."""
        self.state, self.error = state, error
        self._note_change()

    def to_json(self) -> dict[str, Any]:
        """The job as its owner sees it."""
        names = ("id", "kind", "run", "state", "done", "total", "error", "seconds", "version")
        fields = {name: getattr(self, name) for name in names}
        return fields | {"asked": self.request, "found": list(self.results)}

    def _note_change(self) -> None:
        self.version, self._news_at = self.version + 1, time.monotonic()


class Jobs:
    """The queue and its worker.

    Args:
        start: Whether the worker starts at once.
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
            TooManyJobs: Its owner has too many unfinished jobs.
        """
        with self._changed:
            older = [other for other in self._jobs.values() if other.owner == job.owner and not other.over]
            replaced = [other for other in older if job.slot and other.slot == job.slot]
            if len(older) - len(replaced) >= MAX_UNFINISHED:
                raise TooManyJobs(f"{len(older)} of your jobs are not finished. Wait for one, or cancel one.")
            for other in replaced:
                self._stop(other)
            job.queue, self._jobs[job.id] = self, job
            self._forget(job.owner)
            self._changed.notify_all()
        return job

    def get(self, id: str, owner: str) -> Job | None:
        """The job of an id, if it is this owner's."""
        job = self._jobs.get(id)
        return job if job is not None and job.owner == owner else None

    def owned_by(self, owner: str) -> list[Job]:
        """All jobs of an owner, oldest first."""
        return [job for job in list(self._jobs.values()) if job.owner == owner]

    def writing_to(self, run: str) -> Job | None:
        """The unfinished job that writes to a run."""
        return next((job for job in list(self._jobs.values()) if job.run == run and not job.over), None)

    def ahead_of(self, job: Job) -> int:
        """How many unfinished jobs are older than this one."""
        jobs = list(self._jobs.values())
        return sum(not other.over for other in jobs[: jobs.index(job)])

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once if it waits, else at the next denoiser call."""
        with self._changed:
            self._stop(job)

    def short_job_waits(self) -> bool:
        """Whether a short job is waiting."""
        return any(job.state == "waiting" and not job.is_run for job in list(self._jobs.values()))

    def close(self, seconds: float = 10.0) -> None:
        """Cancel all jobs and end the worker; runs keep what they counted."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                self._stop(job)
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join(seconds)

    def _stop(self, job: Job) -> None:
        job.cancelled = True
        if job.state == "waiting":
            job.enter("cancelled")

    def _work(self) -> None:
        while (job := self._next()) is not None:
            _do(job)

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                waiting = [job for job in self._jobs.values() if job.state == "waiting"]
                if waiting:
                    job = min(waiting, key=lambda job: (job.is_run, self._served.get(job.owner, 0.0)))
                    self._served[job.owner] = time.monotonic()
                    job.enter("running")
                    return job
                self._changed.wait()
        return None

    def _forget(self, owner: str) -> None:
        """Drop finished jobs beyond the limits, oldest first."""
        finished = [job for job in self._jobs.values() if job.over]
        of_owner = [job for job in finished if job.owner == owner]
        dropped = of_owner[: max(0, len(of_owner) - MAX_FINISHED)]
        sizes = {job.id: sum(map(len, job.pictures)) for job in finished}
        total = sum(sizes.values())
        for job in finished:
            if total <= MAX_BYTES:
                break
            dropped.append(job)
            total -= sizes[job.id]
        for job in dropped:
            self._jobs.pop(job.id, None)


def _do(job: Job) -> None:
    """Do a job; nothing that happens in it ends the worker."""
    started = time.monotonic()
    try:
        job.raise_if_cancelled()
        job.work(job)
        end: tuple[State, str] = ("done", "")
    except Yield:
        end = ("cancelled", "") if job.cancelled else ("waiting", "")
    except Cancelled:
        end = ("cancelled", "")
    except HeadwiseError as error:
        end = ("failed", str(error))
    except BaseException as error:  # another owner's job comes next
        log.exception("The job %s %s failed.", job.kind, job.id)
        end = (
            "failed",
            f"{type(error).__name__}: see the output of the server. What was counted is kept.",
        )
    job.seconds += time.monotonic() - started
    job.enter(*end)
