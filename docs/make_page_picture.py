"""Make docs/page.png: what `headwise serve` shows of the built-in model when a head is chosen.

python docs/make_page_picture.py [--chromium /usr/bin/chromium]
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

SERVE = [sys.executable, "-c", "from headwise.cli.commands import main; main()", "serve", "--port", "0"]
HEAD = "86"  # the most relevant one for Color


def main() -> None:
    """Start a server in an empty folder, generate an image, choose a head, and photograph the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    chromium = parser.parse_args().chromium
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(SERVE, cwd=folder, stdout=subprocess.PIPE, text=True) as process,
        sync_playwright() as playwright,
    ):
        assert process.stdout is not None
        try:
            tab = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(
                viewport={"width": 1100, "height": 1780}
            )
            tab.set_default_timeout(120_000)
            tab.goto(process.stdout.readline().split()[-1])
            tab.wait_for_selector("#stage-words button")
            tab.fill("#map-head", HEAD)
            tab.press("#map-head", "Enter")
            tab.wait_for_selector("text=Its attention to each word")
            tab.click("#stage-words button:has-text('red')")
            tab.evaluate("scrollTo(0, 0)")
            tab.screenshot(path=Path(__file__).parent / "page.png")
        finally:
            process.send_signal(signal.SIGINT)  # or leaving would wait for it for ever


if __name__ == "__main__":
    main()
