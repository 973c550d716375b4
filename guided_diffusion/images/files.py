"""Files, local or remote in the way blobfile spells it ("gs://...", "az://...", "https://...").

blobfile is imported when a remote path is first met, so work on local files does not need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2s
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import uuid4

AnyPath: TypeAlias = "str | os.PathLike[str]"


def _bf() -> Any:
    import blobfile

    return blobfile


def is_remote(path: AnyPath) -> bool:
    """Check whether the path is one for blobfile."""
    return "://" in str(path)


def join_path(root: AnyPath, name: str) -> str:
    """Join `root` and a relative POSIX name into one path, local or remote."""
    return _bf().join(str(root), name) if is_remote(root) else str(Path(root, name))


def path_kind(path: AnyPath) -> Literal["file", "folder", "missing"]:
    """Say whether a file, a folder or nothing lies at the path.

    Raises OSError, its message one line, when that cannot be found out: remotely without network, without
    credentials, or for an address that blobfile does not know.
    """
    try:
        if is_remote(path):
            is_folder, exists = _bf().isdir(str(path)), _bf().exists(str(path))
        else:
            is_folder, exists = Path(path).is_dir(), Path(path).is_file()
    except Exception as error:  # blobfile raises nearly anything
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error
    if is_folder:
        return "folder"
    return "file" if exists else "missing"


def file_stat(path: AnyPath) -> tuple[int, float]:
    """Return the size in bytes and the time of the last change in seconds."""
    if is_remote(path):
        stat = _bf().stat(str(path))
        return stat.size, stat.mtime
    return os.stat(path).st_size, os.stat(path).st_mtime


def list_files(root: AnyPath) -> list[str]:
    """List the relative POSIX names of all files below a folder, sorted, without hidden ones."""
    return sorted(_remote_names(str(root)) if is_remote(root) else _local_names(Path(root)))


def _local_names(root: Path) -> Iterator[str]:
    seen = {root.resolve()}  # linked folders are followed, but a cycle of links only once
    for folder, subfolders, files in os.walk(root, followlinks=True):
        fresh = {name: Path(folder, name).resolve() for name in subfolders if not name.startswith(".")}
        subfolders[:] = [name for name in sorted(fresh) if fresh[name] not in seen]
        seen.update(fresh.values())
        for name in files:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _remote_names(root: str, prefix: str = "") -> Iterator[str]:
    for entry in _bf().scandir(root):
        if entry.name.startswith("."):
            continue
        if entry.is_dir:
            yield from _remote_names(_bf().join(root, entry.name), f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def read_bytes(path: AnyPath) -> bytes:
    """Read the whole file."""
    if is_remote(path):
        with _bf().BlobFile(str(path), "rb") as file:
            return file.read()
    return Path(path).read_bytes()


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write a file atomically: it appears under its name only when it is whole. Make folders as needed.

    A kill at any moment leaves at most a hidden `*.part` file; the next write of the same file removes it.
    Raises OSError when the file cannot be written.
    """
    if is_remote(path):
        with _bf().BlobFile(str(path), "wb") as file:  # appears when the upload is complete
            file.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hashed, since the name itself may already be as long as the file system allows. The random part after it
    # keeps two writers from sharing a file.
    prefix = f".{blake2s(os.fsencode(target.name), digest_size=8).hexdigest()}"
    part = target.parent / f"{prefix}.{uuid4().hex}.part"
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    for leftover in target.parent.glob(f"{prefix}.*.part"):
        leftover.unlink(missing_ok=True)
