r"""Files that are whole or absent: safetensors with JSON beside the numbers.

A file is written under another name, flushed to the disk, and then takes its place in one step
(`os.replace`), so a process killed at any moment leaves the last good file. Nothing in it depends on when or
where it was written: equal contents are equal bytes. A checksum of all that is said and counted goes with
them, so that a file whose bytes have changed is refused and not believed.
"""

import json
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headwise.errors import UnreadableFile, UnwritableFolder

__all__ = [
    "Header",
    "checksum_error",
    "checksum_of",
    "serialise",
    "read_arrays",
    "read_header",
    "read_whole",
    "deserialise",
    "write_arrays",
    "write_whole",
]

FORMAT = 1
_TYPES = {
    name: np.dtype(of)
    for name, of in {
        "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I8": "i1", "I16": "<i2", "I32": "<i4",
        "I64": "<i8", "F32": "<f4", "F64": "<f8", "BOOL": "?",
    }.items()
}  # fmt: skip


class Header(NamedTuple):
    """What a file says before its numbers come.

    Args:
        said: The JSON beside the numbers.
        arrays: Type and shape of each, and where its bytes begin and end in the file.
    """

    said: dict[str, Any]
    arrays: dict[str, tuple[np.dtype, tuple[int, ...], int, int]]


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
    except BaseException as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):  # somebody interrupts
            raise
        raise UnwritableFolder(
            f"{path} could not be written: {error.strerror}. What stood there before is still there; "
            "make room or give another folder."
        ) from None


def write_arrays(path: str | Path, kind: str, arrays: dict[str, np.ndarray], said: dict[str, Any]) -> None:
    """Write arrays and what is said about them."""
    write_whole(path, serialise(kind, arrays, said))


def serialise(kind: str, arrays: dict[str, np.ndarray], said: dict[str, Any]) -> bytes:
    """The content of a file with these arrays."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.loads(json.dumps({"format": FORMAT, "kind": kind, **said}))  # as it will be read again
    text["checksum"] = _checksum(text, whole)
    return save(whole, metadata={"headwise": json.dumps(text, sort_keys=True)})


def read_arrays(
    path: str | Path, kind: str, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_arrays` wrote."""
    return deserialise(read_whole(path, kind), kind, names, path)


def read_whole(path: str | Path, kind: str) -> bytes:
    """The content of a file of this kind."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, kind, error) from None


def deserialise(
    content: bytes, kind: str, names: Sequence[str], path: str | Path
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `packed` made a file of; the path is where it came from."""
    try:
        arrays = load(content)
        said = _said(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]))
    except (SafetensorError, ValueError, AttributeError):
        raise _cut_short(path) from None
    _require(path, kind, said, arrays.keys() >= set(names))
    if "checksum" in said and said.pop("checksum") != _checksum(said, arrays):
        raise checksum_error(path)
    return arrays, said


def read_header(path: str | Path, kind: str | None = None) -> Header:
    """What a file says, without its numbers; the checksum stays in it and is not compared.

    Args:
        path: The file.
        kind: What it should hold; None takes any.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > 100 * 2**20:  # as safetensors itself
                raise _cut_short(path)
            header = json.loads(file.read(size))
        start, total = 8 + size, path.stat().st_size
        said = _said(header)
        arrays = {
            name: (_TYPES[of["dtype"]], tuple(of["shape"]), *(start + at for at in of["data_offsets"]))
            for name, of in header.items()
            if name != "__metadata__"
        }
    except OSError as error:
        raise _unreadable(path, kind or "result", error) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _cut_short(path) from None
    sound = all(
        stop - begin == dtype.itemsize * math.prod(shape) for dtype, shape, begin, stop in arrays.values()
    )
    if not sound or max((stop for *_, stop in arrays.values()), default=start) != total:
        raise _cut_short(path)
    _require(path, kind or str(said.get("kind", "a result of Headwise")), said, True)
    return Header(said, arrays)


def _said(header: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(header.get("__metadata__", {}).get("headwise", "{}")))


def _require(path: str | Path, kind: str, said: dict[str, Any], complete: bool) -> None:
    if said.get("kind") != kind or not complete:
        raise UnreadableFile(f"{path} holds {said.get('kind', 'no Headwise result')}; expected {kind}.")
    if said.get("format", FORMAT) > FORMAT:
        raise UnreadableFile(
            f"{path} has format {said['format']}, newer than this Headwise reads. Upgrade headwise."
        )


def checksum_of(said: dict[str, Any], parts: Sequence[Any]) -> int:
    """The CRC-32 of what is said, then of the bytes of each array in the order of their names."""
    text = json.dumps({key: said[key] for key in said if key != "checksum"}, sort_keys=True)
    found = zlib.crc32(text.encode())
    for part in parts:
        found = zlib.crc32(part, found)
    return found


def _checksum(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> int:
    return checksum_of(said, [arrays[name].reshape(-1).view(np.uint8) for name in sorted(arrays)])


def _cut_short(path: str | Path) -> UnreadableFile:
    return UnreadableFile(
        f"{path} is no whole safetensors file: it was cut short or damaged. Remove it, and make again what "
        "it held; or wait, if it is still being copied."
    )


def checksum_error(path: str | Path) -> UnreadableFile:
    """The refusal of a file whose checksum is wrong."""
    return UnreadableFile(
        f"{path} is damaged: its checksum is not that of its contents. Remove it, and measure again what it "
        "held."
    )


def _unreadable(path: str | Path, kind: str, error: OSError) -> UnreadableFile:
    return UnreadableFile(f"{path} cannot be read: {error.strerror}. Give the path of a {kind} file.")
