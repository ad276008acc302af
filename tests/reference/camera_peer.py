"""A camera as a process of its own: prints its port, answers GET as the path says.

`python -m tests.reference.camera_peer` serves honest cameras of several makes and hostile ones.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from engine.decoding.images import split_mjpeg

LANES = Path(__file__).resolve().parents[1] / "data/lanes"
USER, PASSWORD = "chốt", "mật khẩu: 1"
COUNTER = itertools.count()


def image(number: int, size: int = 200) -> bytes:
    """A JPEG by its markers, with a number inside."""
    return (
        b"\xff\xd8\xff\xda\x00\x02" + number.to_bytes(4, "big").ljust(size, b"\x01") + b"\xff\xd9"
    )


def part(
    body: bytes, *, eol: bytes = b"\r\n", length: int | None = -1, kind: str = "image/jpeg"
) -> bytes:
    """One part behind its delimiter. length: -1 for the true one, None for none."""
    head = b"--b0" + eol + f"Content-Type: {kind}".encode() + eol
    if length is not None:
        head += b"Content-Length: %d" % (len(body) if length < 0 else length) + eol
    return head + eol + body + eol


def streams(name: str) -> Iterator[bytes]:
    """Chunks of an MJPEG stream."""
    if name == "cut":
        yield from (part(image(n)) for n in range(2))
        return
    if name.startswith("lane"):
        for frame in split_mjpeg((LANES / f"{name}.mjpeg").read_bytes()):
            yield part(frame)
            time.sleep(0.05)
        time.sleep(60)
    if name == "flood":
        while True:
            yield bytes(65_536)
    if name == "trickle":
        yield part(image(0))
        while True:
            yield b"\x00"
    for n in itertools.count():
        if name == "stall" and n == 3:
            time.sleep(60)
        elif name == "lf":
            yield part(image(n), eol=b"\n", length=None)
        elif name == "short":
            yield part(image(n), length=50)
            yield part(image(n))
        elif name == "long":
            yield part(image(n), length=5_000)
        elif name == "text":
            yield part(b"motion=1", kind="text/plain")
            yield part(image(n))
        elif name == "damaged":
            yield part(image(n)[:100])
            yield part(image(n))
        else:
            yield part(image(n))


class Camera(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, kind, name = self.path.split("/")
        try:
            getattr(self, f"_{kind}")(name)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _snap(self, name: str) -> None:
        if name == "challenge":
            challenge = 'Digest realm="cam", nonce="n1", domain="\x01", qop="auth"'
            self._say(401, b"", "text/plain", **{"WWW-Authenticate": challenge})
            return
        if name in ("basic", "digest") and not self._is_allowed(name):
            return
        if name == "hang":
            time.sleep(60)
        elif name == "html":
            self._say(200, b"<html>login</html>", "text/html")
        elif name == "redirect":
            self._say(302, b"", "text/plain", Location="http://127.0.0.1:1/")
        elif name == "broken":
            self._say(500, b"no", "text/plain")
        elif name == "endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"\xff\xd8")
            while True:
                self.wfile.write(bytes(65_536))
        elif name == "gzip":
            self._say(200, b"\x1f\x8b" + bytes(100), "image/jpeg", **{"Content-Encoding": "gzip"})
        elif name == "png":
            self._say(200, b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png")
        else:
            self._say(200, image(next(COUNTER)), "image/jpeg")

    def _mjpeg(self, name: str) -> None:
        boundary = {"dashes": "--b0", "quoted": '"b0"', "huge": "b" * 300, "none": ""}.get(
            name, "b0"
        )
        self.send_response(200)
        kind = f"multipart/x-mixed-replace; boundary={boundary}" if boundary else "image/jpeg"
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in streams(name):
            self.wfile.write(chunk)
            time.sleep(0 if name == "flood" else 0.01)
        self.close_connection = True

    def _is_allowed(self, way: str) -> bool:
        given = self.headers.get("Authorization", "")
        if way == "basic":
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            ok, challenge = given == f"Basic {expected}", 'Basic realm="cam"'
        else:
            ok = self._is_digest(given)
            challenge = 'Digest realm="cam", nonce="n1", qop="auth", algorithm=MD5'
        if not ok:
            self._say(401, b"", "text/plain", **{"WWW-Authenticate": challenge})
        return ok

    def _is_digest(self, given: str) -> bool:
        got = dict(re.findall(r'(\w+)="?([^",]+)"?', given))
        if not given.startswith("Digest "):
            return False

        def md5(*words: str) -> str:
            return hashlib.md5(":".join(words).encode()).hexdigest()

        one, two = md5(USER, "cam", PASSWORD), md5("GET", self.path)
        return got.get("response") == md5(one, "n1", got["nc"], got["cnonce"], "auth", two)

    def _say(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
