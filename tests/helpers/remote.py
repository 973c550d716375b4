"""Remote storage over a local folder."""

from __future__ import annotations

import types
from pathlib import Path


def fake_blobfile(root: Path) -> types.SimpleNamespace:
    """Replace blobfile's calls by calls on a local folder: "gs://bucket/x" is root/bucket/x."""

    def local(path: str) -> Path:
        assert isinstance(path, str) and path.startswith("gs://")
        return root / path.removeprefix("gs://")

    def scandir(path: str) -> list[types.SimpleNamespace]:
        return [types.SimpleNamespace(name=p.name, is_dir=p.is_dir()) for p in local(path).iterdir()]

    return types.SimpleNamespace(
        BlobFile=lambda path, mode: open(local(path), mode),
        exists=lambda path: local(path).exists(),
        isdir=lambda path: local(path).is_dir(),
        stat=lambda path: types.SimpleNamespace(size=local(path).stat().st_size, mtime=0.0),
        join=lambda *parts: "/".join(part.rstrip("/") for part in parts),
        scandir=scandir,
    )
