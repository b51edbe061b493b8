"""A file server that answers range requests, as those of cloud-optimised rasters do.

It runs in a process of its own: GDAL holds the interpreter while it waits for an answer. Usage:
``python range_server.py FOLDER [FAULT EVERY]``; the first line printed is the port. Every so many
requests for parts of a file fail as `FAULT` says: ``500``, an error; ``drop``, the connection
closes in the middle of the answer; ``reset``, before it; ``slow``, it takes half a second.
``/bytes`` says how many bytes of files were sent.
"""

import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves whole files and parts of them."""

    fault, every = "", 0
    sent, requests = 0, 0

    def do_GET(self):
        if self.path == "/bytes":
            return self._answer(200, str(RangeHandler.sent).encode())
        if "Range" not in self.headers:
            return super().do_GET()
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        RangeHandler.requests += 1
        fails = self.every and RangeHandler.requests % self.every == 0
        if fails and self.fault == "500":
            return self.send_error(500)
        if fails and self.fault == "reset":
            return self.connection.close()
        if fails and self.fault == "slow":
            time.sleep(0.5)
        content = path.read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1]
        end = int(first) + len(part) - 1
        RangeHandler.sent += len(part)
        where = f"bytes {first}-{end}/{len(content)}"
        return self._answer(206, part, where, whole=not (fails and self.fault == "drop"))

    def _answer(self, code, part, where=None, *, whole=True):
        self.send_response(code)
        if where is not None:
            self.send_header("Content-Range", where)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part if whole else part[: len(part) // 2])
        if not whole:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        """Stay silent."""


class QuietServer(ThreadingHTTPServer):
    """Says nothing of connections that break."""

    def handle_error(self, *_):
        pass


if __name__ == "__main__":
    if len(sys.argv) > 2:
        RangeHandler.fault, RangeHandler.every = sys.argv[2], int(sys.argv[3])
    handler = partial(RangeHandler, directory=sys.argv[1])
    with QuietServer(("127.0.0.1", 0), handler) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
