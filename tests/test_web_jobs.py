"""The queue: one job at a time, short before long, each its owner's, and none that ends the worker."""

import threading
import time

import pytest

from headwise.errors import HeadwiseError
from headwise.web import jobs as queue
from headwise.web.jobs import Job, Jobs, TooManyJobs
from helpers import PATIENCE, wait


@pytest.fixture
def jobs():
    made = Jobs()
    yield made
    made.close()


def job(work=lambda job: None, owner="me", **more):
    return Job(owner, "test", {}, work, **more)


class Gate:
    """Work that begins, and ends when it is let; it looks whether it is still wanted."""

    def __init__(self):
        self.begun, self.let = threading.Event(), threading.Event()

    def __call__(self, job):
        self.begun.set()
        while not self.let.wait(0.005):
            job.raise_if_cancelled()


def test_a_job_is_done_and_says_what_came_of_it(jobs):
    def work(job):
        job.set_progress(0, 2)
        job.step()
        job.add_result(b"png", column="plain")
        job.step()

    done = jobs.submit(job(work))
    wait(lambda: done.over)
    told = done.to_json()
    assert (told["state"], told["done"], told["total"], told["error"]) == ("done", 2, 2, "")
    assert told["found"] == [{"column": "plain", "picture": 0}] and done.pictures == [b"png"]
    assert told["seconds"] > 0 and "work" not in told


def test_news_of_a_job_has_a_higher_version(jobs):
    gate = Gate()
    one = jobs.submit(job(gate))
    assert gate.begun.wait(PATIENCE)
    before = one.version
    one.add_result(text="more")
    assert one.version == before + 1
    gate.let.set()
    wait(lambda: one.over)
    assert one.version > before + 1


def test_one_at_a_time(jobs):
    at_work, most = [], []

    def work(job):
        at_work.append(job)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.remove(job)

    many = [jobs.submit(job(work, owner=f"owner {n}")) for n in range(8)]
    wait(lambda: all(one.over for one in many))
    assert most == [1] * 8


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_where_it_asks(jobs):
    gate, ran = Gate(), []
    running = jobs.submit(job(gate))
    assert gate.begun.wait(PATIENCE)
    waiting = jobs.submit(job(ran.append))
    jobs.cancel(waiting)
    assert waiting.state == "cancelled" and running.state == "running"
    jobs.cancel(running)
    wait(lambda: running.over)
    assert running.state == "cancelled" and ran == []


def test_a_newer_job_in_the_slot_takes_the_older_ones_place(jobs):
    gate, drawn = Gate(), []
    first = jobs.submit(job(gate, slot="picture"))
    assert gate.begun.wait(PATIENCE)
    second = jobs.submit(job(lambda job: drawn.append(2), slot="picture"))
    others = jobs.submit(job(lambda job: drawn.append(0), slot="picture", owner="you"))
    third = jobs.submit(job(lambda job: drawn.append(3), slot="picture"))
    wait(lambda: all(one.over for one in (first, second, third, others)))
    assert [one.state for one in (first, second, third)] == ["cancelled", "cancelled", "done"]
    assert sorted(drawn) == [0, 3]


def test_who_was_served_longest_ago_is_served_first(jobs):
    gate, order = Gate(), []
    jobs.submit(job(gate, owner="greedy"))
    assert gate.begun.wait(PATIENCE)
    for n in range(3):
        jobs.submit(job(lambda job, n=n: order.append(f"greedy {n}"), owner="greedy"))
    modest = jobs.submit(job(lambda job: order.append("modest"), owner="modest"))
    gate.let.set()
    wait(lambda: modest.over and len(order) == 4)
    assert order == ["modest", "greedy 0", "greedy 1", "greedy 2"]


def test_a_long_run_steps_aside_between_batches_and_loses_none(jobs):
    order, begun, asked, batches = [], threading.Event(), threading.Event(), iter(range(6))

    def run(job):
        for n in batches:
            order.append(n)
            begun.set()
            assert asked.wait(PATIENCE)
            job.set_run_progress(n + 1, 6)

    long = jobs.submit(job(run, run="folder"))
    assert begun.wait(PATIENCE)
    short = jobs.submit(job(lambda job: order.append("short")))
    asked.set()
    wait(lambda: long.over and short.over)
    assert long.state == "done" and order == [0, "short", 1, 2, 3, 4, 5]


def test_a_long_run_without_company_never_steps_aside(jobs):
    starts = []

    def run(job):
        starts.append(1)
        for n in range(5):
            job.set_run_progress(n + 1, 5)

    long = jobs.submit(job(run, run="folder"))
    wait(lambda: long.over)
    assert starts == [1]


@pytest.mark.parametrize(
    "error", [ValueError("secret path"), MemoryError(), SystemExit(1), KeyboardInterrupt()]
)
def test_nothing_that_happens_in_a_job_ends_the_worker(jobs, error, caplog):
    def work(job):
        raise error

    failed = jobs.submit(job(work))
    wait(lambda: failed.over)
    assert failed.state == "failed" and failed.error.startswith(type(error).__name__)
    assert "secret" not in failed.error and type(error).__name__ in caplog.text  # told to the server's owner
    after = jobs.submit(job())
    wait(lambda: after.over)
    assert after.state == "done"


def test_what_headwise_refuses_is_told_in_its_own_words(jobs):
    def work(job):
        raise HeadwiseError("Give a strength from -100 to 100.")

    failed = jobs.submit(job(work))
    wait(lambda: failed.over)
    assert (failed.state, failed.error) == ("failed", "Give a strength from -100 to 100.")


def test_a_job_is_its_owners(jobs):
    mine = jobs.submit(job())
    assert jobs.get(mine.id, "me") is mine and jobs.get(mine.id, "you") is None
    assert jobs.get("no such", "me") is None
    assert jobs.owned_by("me") == [mine] and jobs.owned_by("you") == []


def test_nobody_fills_the_queue(jobs):
    gate = Gate()
    jobs.submit(job(gate))
    for _ in range(queue.MAX_UNFINISHED - 1):
        jobs.submit(job())
    with pytest.raises(TooManyJobs, match=f"{queue.MAX_UNFINISHED} of your jobs are not finished"):
        jobs.submit(job())
    jobs.submit(job(owner="you"))
    gate.let.set()


def test_finished_jobs_are_forgotten_beyond_what_is_kept(jobs, monkeypatch):
    monkeypatch.setattr(queue, "MAX_FINISHED", 3)
    many = []
    for _ in range(6):
        many.append(jobs.submit(job()))
        wait(lambda: many[-1].over)
    assert [jobs.get(one.id, "me") is None for one in many] == [True, True, False, False, False, False]
    monkeypatch.setattr(queue, "MAX_BYTES", 10)
    large = jobs.submit(job(lambda job: job.add_result(b"x" * 100)))
    wait(lambda: large.over)
    jobs.submit(job())
    assert jobs.get(large.id, "me") is None


def test_closing_stops_what_is_at_work(jobs):
    gate = Gate()
    running, waiting = jobs.submit(job(gate)), jobs.submit(job())
    assert gate.begun.wait(PATIENCE)
    jobs.close()
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
