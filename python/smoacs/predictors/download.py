"""Fetching weight files from the public places where their authors keep them.

A file is fetched once, whole or not at all, into the cache of :func:`smoacs.predictors.weights
.cache_dir`. ``SMOACS_OFFLINE=1`` forbids it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.request import Request, urlopen

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # s without an answer


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    Attributes
    ----------
    path : str
        Where it belongs, below a folder of the cache.
    urls : tuple of str
        Places that hold it; the first that gives the right file is enough.
    sha256 : str or None
        Of its content, where it is known. A zip archive without one is checked for being whole.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str | None = None


def offline() -> bool:
    """Whether the user forbids network access: ``SMOACS_OFFLINE`` is set, and not to 0."""
    return os.environ.get("SMOACS_OFFLINE", "0") not in ("", "0")


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Path of a file below a folder, downloaded if it is not there.

    Raises
    ------
    FileNotFoundError
        If it is not there and cannot be downloaded; says where to get it and where to put it.
    ValueError
        If the file that is there is not the right one.
    """
    place = folder / file.path
    if place.exists():
        if problem := _problem(place, file):
            raise ValueError(f"{place} {problem}; delete it, and it is downloaded again")
        return place
    hint = f"get it from {' or '.join(file.urls)} and put it at {place}"
    if offline():
        raise FileNotFoundError(
            f"no file {place.name}, and SMOACS_OFFLINE forbids to download it: {hint}"
        )
    failures = []
    for url in file.urls:
        try:
            _download(url, file, place)
            return place
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{url}: {error}")
    raise FileNotFoundError(
        f"{place.name} could not be downloaded ({'; '.join(failures)}); where there is a network, "
        + hint
    )


def _download(url: str, file: RemoteFile, place: Path) -> None:
    """Write the file only when it has come whole and right."""
    place.parent.mkdir(parents=True, exist_ok=True)
    # Some hosts refuse clients without a name.
    request = Request(url, headers={"User-Agent": "smoacs"})
    handle, partial = tempfile.mkstemp(dir=place.parent, prefix=place.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as target, urlopen(request, timeout=_TIMEOUT) as response:
            if response.status != 200:
                raise OSError(f"the server answered {response.status} {response.reason}")
            _copy(response, target, place.name)
        if problem := _problem(Path(partial), file):
            raise ValueError(f"what came {problem}")
        os.replace(partial, place)
    finally:
        Path(partial).unlink(missing_ok=True)


def _copy(response: HTTPResponse, target: IO[bytes], label: str) -> None:
    expected = int(response.headers.get("Content-Length") or 0)
    received = 0
    with _progress(label, expected) as advance:
        while chunk := response.read(_CHUNK):
            target.write(chunk)
            received += len(chunk)
            advance(len(chunk))
    if received < expected:
        raise OSError(f"the connection broke after {received} of {expected} bytes")


@contextmanager
def _progress(label: str, total: int) -> Iterator:
    """Bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or None)
        yield lambda n: bar.advance(task, n)


def _problem(path: Path, file: RemoteFile) -> str | None:
    """What is wrong with the content of a file, if anything."""
    if file.sha256 is not None:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != file.sha256:
            return (
                "is damaged or another file: its SHA-256 is "
                f"{found[:12]}..., not {file.sha256[:12]}..."
            )
    elif Path(file.path).suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return "is no complete zip archive"
        if damaged is not None:
            return f"is a damaged zip archive (at {damaged})"
    return None
