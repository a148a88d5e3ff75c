"""A service in Python: one bundle, one latency target, questions by HTTP. Its counterpart is cpp-service/service.cpp.

python examples/python_service.py bundles/demo 8080 [TTFT_MS]
curl --data-binary @image.rgb 'http://127.0.0.1:8080/ask?width=640&height=480&question=what+is+the+red+object%3F'

The body holds the image's bytes, row by row: red, green, blue. Port 0 takes a free one; the first line says which.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np

from allrounder.errors import AllRounderError, InputInvalid
from allrounder.runtime import LatencyTarget, Runtime

MAX_PIXELS = 16384  # along one side


class Handler(BaseHTTPRequestHandler):
    """One connection; each has its own thread, and the runtime may be asked by all of them at once."""

    runtime: Runtime

    def ask(self, query: dict[str, list[str]], body: bytes) -> dict[str, object]:
        """Returns the answer to a request."""
        width, height = (int(query.get(name, [""])[0]) for name in ("width", "height"))
        possible = 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS
        if not possible or len(body) != width * height * 3:
            raise ValueError("the body must hold width x height x 3 bytes")
        image = np.frombuffer(body, np.uint8).reshape(height, width, 3)
        answer = self.runtime.generate(image, query.get("question", [""])[0])
        return {
            "version": self.runtime.entry.version,
            "text": answer.text,
            "token_ids": answer.token_ids,
            "ttft_ms": answer.timing.ttft_ms,
        }

    def do_POST(self) -> None:
        """Answers ``/ask``."""
        url = urlsplit(self.path)
        if url.path != "/ask":
            self.send_error(404)
            return
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length", "")))
            self.reply(200, self.ask(parse_qs(url.query), body))
        except AllRounderError as error:
            theirs = isinstance(error, InputInvalid)
            self.reply(400 if theirs else 500, {"error": type(error).__name__, "message": str(error)})
        except ValueError as error:  # no number, or not that many bytes
            self.reply(400, {"error": "BadRequest", "message": str(error)})

    def reply(self, status: int, body: dict[str, object]) -> None:
        """Sends JSON."""
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Serves until it is ended."""
    if len(sys.argv) < 3:
        sys.exit("usage: python_service.py BUNDLE PORT [TTFT_MS]")
    target = LatencyTarget(ttft_ms=float(sys.argv[3])) if len(sys.argv) > 3 else None
    with Runtime.load(sys.argv[1], target=target) as Handler.runtime:
        server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
        print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
