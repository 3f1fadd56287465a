"""A web server on this machine that gives out files from memory."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Answers with ``content[path]``; with an early end if the path is in ``cut``.

    ``requests`` lists the paths that it was asked for. A path that starts with ``moved/`` leads
    to the rest of it, as download links do.
    """

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content
        self.cut: set[str] = set()
        self.status: dict[str, int] = {}
        self.requests: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] # client is gone
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        files = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                files.requests.append(path)
                if path.startswith("moved/"):
                    self.send_response(302)
                    self.send_header("Location", "/" + path.removeprefix("moved/"))
                    self.end_headers()
                elif path in files.content:
                    content = files.content[path]
                    self.send_response(files.status.get(path, 200))
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2] if path in files.cut else content)
                else:
                    self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
