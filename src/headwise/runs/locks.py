r"""One writer per folder: a run holds its folder's lock until it ends.

The kernel holds the lock (`flock` on a file named .lock), so it is released however its process ends, and
`kill -9` leaves nothing to clean up. On Linux it also works between the machines of an NFS share. On a file
system without locks there is none; instead folder.py checks before every checkpoint that the file is still
the one it wrote.
"""

import os
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from headwise.errors import RunMismatch, UnwritableFolder

__all__ = ["hold"]

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def hold(folder: Path, owner: Any) -> Callable[[], Any]:
    """Hold a folder's lock; calling the result releases it, as does the end of the owner or of the process.

    Args:
        folder: An existing folder.
        owner: The lock is released when this object is garbage-collected.

    Raises:
        RunMismatch: Another process holds the lock.
        UnwritableFolder: The lock file cannot be written.
    """
    file = folder / ".lock"
    while fcntl is not None:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UnwritableFolder(
                f"{folder} cannot be written to: {error.strerror}. Make room, or give another folder."
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise RunMismatch(
                f"{folder} is being written by {holder or 'another process'}. "
                "Wait until it ends, or give another folder."
            ) from None
        except OSError:  # no locks on this file system
            os.close(handle)
            file.unlink(missing_ok=True)
            break
        if _is_still(handle, file):
            with suppress(OSError):  # on a full disk the lock works without the process's name
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return weakref.finalize(owner, _release, handle, file, os.getpid())
        os.close(handle)  # another process released it, and removed the file, in between
    return lambda: None


def _is_still(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _release(handle: int, file: Path, process: int) -> None:
    if os.getpid() == process:  # not in a process forked from it
        file.unlink(missing_ok=True)
    os.close(handle)
