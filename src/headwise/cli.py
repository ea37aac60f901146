"""The command line: parse, call one library function, print what came back."""


def main() -> None:
    """Entry point of the `headwise` command."""
    raise SystemExit("headwise: no commands yet")
