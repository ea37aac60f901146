"""What browser tests share: a Chromium, the page's servers, a tab that notes what it should not do."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the page is an extra: pip install 'headwise[web]'")

import uvicorn

from headwise.serving import listen
from headwise.web.app import make_app
from helpers import PATIENCE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IN_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SERVE = """
from headwise.cli.commands import main
from headwise.web import run_jobs
run_jobs.CHECKPOINT_SECONDS = 0  # after every batch, so that a run that is killed has counted something
main()
"""
SERIOUS = ("serious", "critical")


class Server:
    """`headwise serve` in a process of its own, which may end and begin again."""

    def __init__(self, folder):
        self.folder = folder
        self.start()

    def start(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", SERVE, "serve", "--port", "0"]
        self.log = (self.folder / "serve.log").open("a")
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), (self.folder / "serve.log").read_text()
        self.address = line.split()[-1]

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.log.close()


@contextmanager
def chromium():
    """A browser."""
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        launched.close()


class Page:
    """A tab that notes what it should not do."""

    def __init__(self, context, address):
        self.tab, self.address, self.faults, self.hosts = context.new_page(), address, [], set()
        self.tab.set_default_timeout(1000 * PATIENCE)
        self.tab.on("console", self.note)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.tab.on("dialog", lambda dialog: dialog.accept())
        self.tab.goto(address)

    def note(self, said):
        if said.type in ("error", "warning"):
            self.faults.append(said.text)

    def forgive(self, status):
        """The browser says of every refusal that it was one; this one was meant."""
        self.faults = [fault for fault in self.faults if f"status of {status}" not in fault]

    def until(self, expression, *given):
        """Wait for something to be true; the page's own policy forbids `wait_for_function` its eval."""
        end = time.monotonic() + PATIENCE
        while not self.tab.evaluate(expression, list(given)):
            assert time.monotonic() < end, (expression, given)
            self.tab.wait_for_timeout(20)

    def count(self, selector, number):
        """Wait until there are so many."""
        there = "([selector, number]) => document.querySelectorAll(selector).length === number"
        self.until(there, selector, number)

    def source(self, selector):
        """What an image shows, by its address."""
        return self.tab.get_attribute(selector, "src")

    def changes(self, selector, before):
        """Wait until another image is shown."""
        other = "([selector, before]) => document.querySelector(selector).getAttribute('src') !== before"
        self.until(other, selector, before)

    def says(self, selector, text):
        """Wait until a text is there."""
        there = "([selector, text]) => document.querySelector(selector).textContent.includes(text)"
        self.until(there, selector, text)

    def recipe(self, button, part):
        """What a button says to do away from the page: its "command", or its "python"."""
        self.tab.click(button)
        self.tab.wait_for_selector("#recipe[open]")
        return self.tab.inner_text(f"#recipe-{part}")

    def open(self, name):
        self.tab.click(f"#tab-{name}")
        self.tab.wait_for_selector(f"#{name}:not([hidden])")

    def check(self):
        """Nothing was said on the console, and nobody else was asked."""
        assert not self.faults, self.faults
        assert {host for host in self.hosts if host} == {urlsplit(self.address).netloc}


def axe(tab):
    """Serious faults that axe finds: the rule and the element."""
    script = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js").read_text()
    tab.evaluate(script)  # past the page's own policy, which would not let it in as an element
    found = tab.evaluate("axe.run()")["violations"]
    return [(one["id"], node["html"]) for one in found if one["impact"] in SERIOUS for node in one["nodes"]]


@contextmanager
def served(service, rules):
    """The page of a service in this process; its address."""
    listening = listen("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(make_app(service, rules), log_level="error"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        running.should_exit = True
        thread.join(PATIENCE)
        listening.close()
