"""How long users of the page wait: `headwise serve` with the built-in model, in a headless Chromium.

    python benchmarks/serving.py [--json] [--write] [--turns 5] [--chromium /usr/bin/chromium]

address   from the command to the address that it prints
content   from opening that address to the first contentful paint, by the browser's own clock
paint     from opening it to the concept × head map (first useful paint)
ready     from opening it until the model is loaded
strength  from a key press at the strength slider to the new, decoded image; with the page's default steps

Each turn starts a new server and a new browser context, and changes the strength three times. Seconds are
medians, with the lowest and highest.
"""

import argparse
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from looking import add_output_to, tell
from playwright.sync_api import Browser, Page, sync_playwright

SERVE = [sys.executable, "-c", "from headwise.cli.commands import main; main()", "serve", "--port", "0"]
PAINTED = "() => document.querySelector('#map').width > 400"
READY = "() => document.querySelector('#model').textContent.includes('is ready')"
CONTENT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
TIMES = ("address", "content", "paint", "ready", "strength")
AFTER = "#generate-pair figure:nth-child(2) img"
CHANGED = """([selector, before]) => {
  const image = document.querySelector(selector);
  return image && image.getAttribute('src') !== before && image.complete && image.naturalWidth > 0;
}"""
CHANGES = 3


def seconds_until(tab: Page, expression: str, argument: Any = None, since: float | None = None) -> float:
    """Seconds from now, or from a given time, until an expression is true; checked every 0.01 s."""
    since = time.perf_counter() if since is None else since
    while not tab.evaluate(expression, argument):
        time.sleep(0.01)
    return time.perf_counter() - since


@contextmanager
def served() -> Iterator[str]:
    """The address of a server in an empty folder."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(SERVE, cwd=folder, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def turn(browser: Browser) -> list[dict[str, float]]:
    """The waiting times of one server, and of each change of the strength."""
    started = time.perf_counter()
    with served() as address:
        taken = {"address": time.perf_counter() - started}
        tab = browser.new_context().new_page()
        tab.set_default_timeout(300_000)  # a busy machine takes long; how long is what is measured
        opened = time.perf_counter()
        tab.goto(address)
        taken["paint"] = seconds_until(tab, PAINTED, since=opened)
        taken["ready"] = seconds_until(tab, READY, since=opened)
        seconds_until(tab, f"() => {CONTENT} !== null")
        taken["content"] = tab.evaluate(CONTENT) / 1000
        tab.click("#tab-generate")
        tab.click("#generate-words button:has-text('red')")
        seconds_until(tab, CHANGED, [AFTER, ""])
        tab.wait_for_selector(".suggestions button")
        tab.wait_for_selector("#status", state="hidden")
        tab.focus("#generate-form [name=strength]")
        waits = []
        for _ in range(CHANGES):
            before = tab.get_attribute(AFTER, "src")
            tab.keyboard.press("ArrowRight")
            waits.append({"strength": seconds_until(tab, CHANGED, [AFTER, before])})
            tab.wait_for_selector("#status", state="hidden")
        tab.context.close()
    return [taken, *waits]


def measure(turns: int, chromium: str) -> dict[str, Any]:
    """Medians, lowest and highest seconds over several turns, and the machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        taken = [one for _ in range(turns) for one in turn(browser)]
        results: dict[str, Any] = {"browser": browser.version}
        browser.close()
    for name in TIMES:
        seconds = [one[name] for one in taken if name in one]
        results[f"{name}_s"] = statistics.median(seconds)
        results[f"{name}_spread_s"] = [min(seconds), max(seconds)]
    machine = {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}
    return results | {"turns": turns, "changes": turns * CHANGES} | machine


def main() -> None:
    """Print the waiting times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_to(parser)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    results = measure(options.turns, options.chromium)
    if not tell(results, options):
        return
    for name in TIMES:
        low, high = results[f"{name}_spread_s"]
        sys.stdout.write(f"{name:9} {results[f'{name}_s']:6.2f} s   ({low:.2f} to {high:.2f})\n")


if __name__ == "__main__":
    main()
