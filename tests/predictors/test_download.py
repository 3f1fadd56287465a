"""Weight files come whole, right and once from a server, or not at all."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from file_server import FileServer
from smoacs.predictors.download import RemoteFile, fetch

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("config.json", "{}" * 5000)
    return buffer.getvalue()


@pytest.fixture
def server(file_server: Callable[[dict[str, bytes]], FileServer]) -> FileServer:
    names = ("good", "cut", "challenge")
    server = file_server({"zip": archive()} | dict.fromkeys(names, CONTENT))
    server.cut.add("cut")
    server.status["challenge"] = 202
    return server


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_downloaded_once(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile("model/state.pt", (f"{server.url}/moved/good",), SHA256)
    for _ in range(2):
        assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["moved/good", "good"]
    assert left_in(tmp_path) == ["state.pt"]


def test_the_next_place_is_tried(server: FileServer, tmp_path: Path) -> None:
    server.content["other"] = CONTENT[:-1] + b"x"
    urls = tuple(
        f"{server.url}/{name}" for name in ("nowhere", "other", "cut", "challenge", "good")
    )
    assert fetch(RemoteFile("state.pt", urls, SHA256), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "404"),
        ("cut", "the connection broke after 384000 of 768000 bytes"),
        ("challenge", "the server answered 202"),
        ("zip", "SHA-256"),
    ],
)
def test_nothing_is_left_of_a_failed_download(
    server: FileServer, tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(FileNotFoundError) as error:
        fetch(RemoteFile("state.pt", (f"{server.url}/{name}",), SHA256), tmp_path)
    for part in (reason, f"get it from {server.url}/{name}", str(tmp_path / "state.pt")):
        assert part in str(error.value)
    assert left_in(tmp_path) == []


def test_a_server_that_does_not_answer(tmp_path: Path, server: FileServer) -> None:
    server.close()
    with pytest.raises(FileNotFoundError, match=r"state\.pt could not be downloaded.*refused"):
        fetch(RemoteFile("state.pt", (f"{server.url}/good",)), tmp_path)


def test_archives_must_be_whole(server: FileServer, tmp_path: Path) -> None:
    file = RemoteFile("model.zip", (f"{server.url}/zip",))
    assert zipfile.is_zipfile(fetch(file, tmp_path))
    server.content["zip"] = b"<html>Please prove that you are human</html>"
    (tmp_path / "model.zip").unlink()
    with pytest.raises(FileNotFoundError, match="no complete zip archive"):
        fetch(file, tmp_path)
    damaged = bytearray(archive())
    damaged[45] ^= 0xFF
    server.content["zip"] = bytes(damaged)
    with pytest.raises(FileNotFoundError, match="zip archive"):
        fetch(file, tmp_path)
    assert left_in(tmp_path) == []


def test_a_wrong_file_in_the_cache_is_refused(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(CONTENT[:500])
    with pytest.raises(ValueError, match=r"state\.pt is damaged or another file.*delete it"):
        fetch(RemoteFile("state.pt", (f"{server.url}/good",), SHA256), tmp_path)
    assert server.requests == []


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SMOACS_OFFLINE", value)
    file = RemoteFile("state.pt", (f"{server.url}/good",), SHA256)
    with pytest.raises(FileNotFoundError) as error:
        fetch(file, tmp_path)
    for part in ("SMOACS_OFFLINE", "state.pt", server.url, str(tmp_path / "state.pt")):
        assert part in str(error.value)
    assert server.requests == []
    (tmp_path / "state.pt").write_bytes(CONTENT)
    assert fetch(file, tmp_path) == tmp_path / "state.pt"
    monkeypatch.setenv("SMOACS_OFFLINE", "0")
    (tmp_path / "state.pt").unlink()
    assert fetch(file, tmp_path).exists()


def test_a_terminal_shows_the_progress(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    fetch(RemoteFile("state.pt", (f"{server.url}/good",), SHA256), tmp_path)
    assert "downloading state.pt" in terminal.getvalue()
    assert "768" in terminal.getvalue()
