"""Prompts to measure with: a list, a text file with one prompt per line, or the packaged ones.

The packaged prompts name everyday objects, "a photo of a dog.", because relevance describes what heads do on
ordinary images; the built-in model has prompts from its own world.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwise.errors import UnreadablePrompts
from headwise.files import expanded
from headwise.model.pipelines import is_emoji

__all__ = ["read_prompts"]

_DATA = Path(__file__).parents[1] / "data"


def read_prompts(prompts: Sequence[str] | str | Path | None, pipe: Any) -> tuple[str, ...]:
    """Read and check prompts.

    Args:
        prompts: A list of prompts; the path of a file with one prompt per line, whose blank lines are
            skipped; or None for the packaged prompts.
        pipe: The pipeline; the built-in model has its own packaged prompts.

    Raises:
        UnreadablePrompts: No prompt was given, or one of them is not usable text.
    """
    if prompts is None:
        prompts = _DATA / ("emoji_prompts.txt" if is_emoji(pipe) else "prompts.txt")
    if isinstance(prompts, str | Path):
        return _read_file(expanded(prompts))
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip() or "\0" in prompt:
            raise UnreadablePrompts(
                f"Prompt {i} is {prompt!r}; expected text with at least one word and no NUL."
            )
    if not prompts:
        raise UnreadablePrompts("The list of prompts is empty. Give at least one.")
    return tuple(prompts)


def _read_file(path: Path) -> tuple[str, ...]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadablePrompts(
            f"The prompt file {path} cannot be read: {error.strerror}. Give a text file with one prompt per "
            "line."
        ) from None
    prompts = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if b"\0" in line:
            raise UnreadablePrompts(
                f"{path}, line {number}: a NUL character. Give a text file with one prompt per line."
            )
        try:
            prompts.append(line.decode().strip())
        except UnicodeDecodeError:
            raise UnreadablePrompts(f"{path}, line {number}: not UTF-8. Save the file as UTF-8.") from None
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise UnreadablePrompts(f"{path} holds no prompt. Write one prompt per line.")
    return tuple(prompts)
