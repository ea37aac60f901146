r"""Files that are whole or absent: safetensors with JSON beside the numbers.

A file is written under another name, flushed to the disk, and then takes its place in one step
(`os.replace`), so a process killed at any moment leaves the last good file. Nothing in it depends on when or
where it was written: equal contents are equal bytes.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headwise.errors import UnreadableFile, UnwritableFolder

__all__ = ["read_arrays", "write_arrays", "write_whole"]

FORMAT = 1


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file whole, or leave the one that is there."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise UnwritableFolder(
            f"{path} could not be written: {error.strerror}. What stood there before is still there; "
            "make room or give another folder."
        ) from None


def write_arrays(path: str | Path, kind: str, arrays: dict[str, np.ndarray], said: dict[str, Any]) -> None:
    """Write arrays and what is said about them."""
    text = json.dumps({"format": FORMAT, "kind": kind, **said}, sort_keys=True)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_whole(path, save(whole, metadata={"headwise": text}))


def read_arrays(
    path: str | Path, kind: str, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote."""
    path = Path(path)
    try:
        content = path.read_bytes()
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        said = json.loads(header.get("__metadata__", {}).get("headwise", "{}"))
    except OSError as error:
        raise UnreadableFile(
            f"{path} cannot be read: {error.strerror}. Give the path of a {kind} file."
        ) from None
    except (SafetensorError, ValueError):
        raise UnreadableFile(f"{path} is no whole safetensors file: it was cut short or damaged.") from None
    if said.get("kind") != kind or any(name not in arrays for name in names):
        raise UnreadableFile(f"{path} holds {said.get('kind', 'no Headwise result')}; expected {kind}.")
    if said["format"] > FORMAT:
        raise UnreadableFile(
            f"{path} has format {said['format']}, newer than this Headwise reads. Upgrade headwise."
        )
    return arrays, said
