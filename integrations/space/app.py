"""The page of `headwise serve` as a Hugging Face Space.

A Space listens on port 7860 behind a proxy, under the host name in SPACE_HOST. Other machines can reach it,
so it needs a token: set it as the Space's secret HEADWISE_TOKEN, and include it in the link. The Space's
variable HEADWISE_MODEL names the model; by default it is the built-in one.
"""

import os

from headwise.cli.commands import main

if __name__ == "__main__":
    name, model = os.environ.get("SPACE_HOST", "localhost"), os.environ.get("HEADWISE_MODEL", "emoji")
    main(["serve", "--host", "0.0.0.0", "--port", "7860", "--allow-host", name, "--model", model])
