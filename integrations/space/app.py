"""The page of `headwise serve` as a Hugging Face Space.

A Space listens on port 7860 behind a proxy, which calls it by the name in SPACE_HOST. Like every server that
others can reach, it wants a token: give it as the Space's secret HEADWISE_TOKEN, and pass it on in the link.
The model is the Space's variable HEADWISE_MODEL, or the built-in one.
"""

import os

from headwise.cli.commands import main

if __name__ == "__main__":
    name, model = os.environ.get("SPACE_HOST", "localhost"), os.environ.get("HEADWISE_MODEL", "emoji")
    main(["serve", "--host", "0.0.0.0", "--port", "7860", "--allow-host", name, "--model", model])
