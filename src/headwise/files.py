r"""Files that are either complete or absent: safetensors arrays with JSON metadata.

A file is written under a temporary name, flushed to disk, and then moved into place in one step
(`os.replace`), so a process killed at any moment leaves the last good file. Nothing in it depends on when or
where it was written: equal contents give equal bytes. It holds a checksum of its metadata and arrays, so
that a file whose bytes have changed is refused.
"""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from headwise.errors import UnreadableFile, UnwritableFolder

__all__ = [
    "Header", "deserialise", "expanded", "read_arrays", "read_header", "read_whole", "serialise",
    "write_arrays", "write_whole",
]  # fmt: skip

FORMAT = 1


class Header(NamedTuple):
    """The contents of a file, read without its arrays.

    Args:
        metadata: The JSON metadata, including its "checksum".
        arrays: The type of each array as safetensors spells it, such as "U8", and its shape, by name.
    """

    metadata: dict[str, Any]
    arrays: dict[str, tuple[str, tuple[int, ...]]]


def expanded(path: str | Path) -> Path:
    """The path, with a leading ~ replaced by the user's home folder."""
    path = Path(path)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file completely, or leave the existing one as it is."""
    path = expanded(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):  # such as an interrupt from the keyboard
            raise
        raise UnwritableFolder(
            f"{path} could not be written: {error.strerror}. An earlier version of it is unchanged. "
            "Free some space, or give another folder."
        ) from None


def write_arrays(
    path: str | Path, kind: str, arrays: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Write arrays and their metadata to a file.

    Args:
        path: The file; its folder must exist.
        kind: What the file holds, such as "votes"; reading it as another kind is refused.
        arrays: The arrays by name.
        metadata: JSON-serialisable values by name.
    """
    write_whole(path, serialise(kind, arrays, metadata))


def serialise(kind: str, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> bytes:
    """The bytes of the file that `write_arrays` writes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.loads(json.dumps({"format": FORMAT, "kind": kind, **metadata}))  # as it will be read back
    text["checksum"] = _checksum(text, contiguous)
    return save(contiguous, metadata={"headwise": json.dumps(text, sort_keys=True)})


def read_arrays(
    path: str | Path, kind: str, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote.

    Args:
        path: The file.
        kind: What it should hold.
        names: Arrays that it must have.

    Returns:
        The arrays by name, and the metadata without its checksum.

    Raises:
        UnreadableFile: The file is missing, damaged, of another kind or of a newer format.
    """
    return deserialise(read_whole(path, kind), kind, names, path)


def read_whole(path: str | Path, kind: str) -> bytes:
    """The bytes of a file; `kind` names the expected file in the error if it cannot be read."""
    try:
        return expanded(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, kind, error) from None


def deserialise(
    content: bytes, kind: str, names: Sequence[str], path: str | Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The inverse of `serialise`; arguments, results and errors are those of `read_arrays`."""
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = _metadata(header.get("__metadata__"))
    except (SafetensorError, ValueError, AttributeError):
        raise _cut_short(path) from None
    _require(path, kind, metadata, arrays.keys() >= set(names))
    if "checksum" in metadata and metadata.pop("checksum") != _checksum(metadata, arrays):
        raise UnreadableFile(
            f"{path} is damaged: its checksum does not match its contents. Remove it, and measure its "
            "contents again."
        )
    return arrays, metadata


def read_header(path: str | Path, kind: str | None = None) -> Header:
    """Read the metadata and the array shapes of a file; the checksum is not verified.

    Args:
        path: The file.
        kind: What it should hold; None accepts any kind.

    Raises:
        UnreadableFile: The file is missing, cut short, of another kind or of a newer format.
    """
    try:
        Path(path).open("rb").close()  # for the system's own message if it cannot be read
        with safe_open(path, "np") as file:
            metadata = _metadata(file.metadata())
            views = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            arrays = {name: (view.get_dtype(), tuple(view.get_shape())) for name, view in views.items()}
    except OSError as error:
        raise _unreadable(path, kind or "result", error) from None
    except (SafetensorError, ValueError):
        raise _cut_short(path) from None
    _require(path, kind or str(metadata.get("kind", "a result of Headwise")), metadata, True)
    return Header(metadata, arrays)


def _metadata(of_safetensors: dict[str, str] | None) -> dict[str, Any]:
    return dict(json.loads((of_safetensors or {}).get("headwise", "{}")))


def _require(path: str | Path, kind: str, metadata: dict[str, Any], complete: bool) -> None:
    if metadata.get("kind") != kind or not complete:
        raise UnreadableFile(f"{path} holds {metadata.get('kind', 'no Headwise result')}; expected {kind}.")
    if metadata.get("format", FORMAT) > FORMAT:
        raise UnreadableFile(
            f"{path} has format {metadata['format']}, newer than this Headwise reads. Upgrade headwise."
        )


def _checksum(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> int:
    """The CRC-32 of the metadata, then of the bytes of each array in the order of their names."""
    checksum = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, checksum)
    return checksum


def _cut_short(path: str | Path) -> UnreadableFile:
    if Path(path).suffix != ".safetensors":
        return UnreadableFile(
            f"{path} was not written by Headwise. Give a .safetensors file of Headwise, or a run's folder."
        )
    return UnreadableFile(
        f"{path} is not a complete safetensors file: it was cut short or damaged. Wait if it is still being "
        "copied; otherwise remove it, and create it again."
    )


def _unreadable(path: str | Path, kind: str, error: OSError) -> UnreadableFile:
    return UnreadableFile(f"{path} cannot be read: {error.strerror}. Give the path of a {kind} file.")
