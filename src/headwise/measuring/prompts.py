"""Prompts to measure with: a list, a text file with one prompt a line, or the package's own.

The package's own name everyday things, "a photo of a dog.", because relevance asks what heads do on ordinary
pictures, and the built-in model has prompts from its own world.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwise.errors import UnreadablePrompts
from headwise.model.pipelines import is_emoji

__all__ = ["read_prompts"]

_DATA = Path(__file__).parents[1] / "data"


def read_prompts(prompts: Sequence[str] | str | Path | None, pipe: Any) -> tuple[str, ...]:
    """The prompts, checked.

    Args:
        prompts: A list of prompts, the path of a file with one a line (blank lines are skipped), or None.
        pipe: Whose own prompts None means.
    """
    if prompts is None:
        prompts = _DATA / ("emoji_prompts.txt" if is_emoji(pipe) else "prompts.txt")
    if isinstance(prompts, str | Path):
        return _of_file(Path(prompts))
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip() or "\0" in prompt:
            raise UnreadablePrompts(
                f"Prompt {i} is {prompt!r}; expected a text with at least one word and no NUL."
            )
    if not prompts:
        raise UnreadablePrompts("There is no prompt in the list. Give at least one.")
    return tuple(prompts)


def _of_file(path: Path) -> tuple[str, ...]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadablePrompts(
            f"The prompts {path} cannot be read: {error.strerror}. Give a text file with one prompt a line."
        ) from None
    found = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if b"\0" in line:
            raise UnreadablePrompts(
                f"{path}, line {number}: a NUL character. Is this a text file with one prompt a line?"
            )
        try:
            found.append(line.decode().strip())
        except UnicodeDecodeError:
            raise UnreadablePrompts(f"{path}, line {number}: not UTF-8. Save the file as UTF-8.") from None
    found = [line for line in found if line]
    if not found:
        raise UnreadablePrompts(f"{path} is empty from line 1 on. Write one prompt a line.")
    return tuple(found)
