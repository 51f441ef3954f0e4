"""Pages of reports, taken apart, and opened in a real browser."""

from __future__ import annotations

import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge",
)  # fmt: skip
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE_S = 120


class Page(HTMLParser):
    """What a page is made of: tags, attributes, and the text people see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.title = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] == ["title"]:
            self.title += data
        elif self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All text in a line."""
        return " ".join("".join(self.texts).split())

    def of(self, name: str) -> list[str]:
        """Return the values of an attribute."""
        return [value for _, found, value in self.attributes if found == name]


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """Yield an address of this machine, and the paths that anyone asks it for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def browse(folder: Path, text: str, *options: str) -> str:
    """Open a page in the browser; return what the options make it print."""
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            # As root, which continuous integration is, its sandbox does not start.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1000,1400",
            *options,
            path.as_uri(),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout.decode()


def reaching(address: str) -> tuple[str, ...]:
    """Return names that would make a browser ask for something, and change the page."""
    return (
        f"<img src='{address}/img' onerror=\"document.title='run'\">",
        f"</title><script src='{address}/script'></script>",
        "<script>document.title='run'</script>",
        f"</style><link rel=stylesheet href='{address}/css'>",
        f'"><iframe src="{address}/frame"></iframe>',
        f"<meta http-equiv=refresh content='0;url={address}/refresh'>",
        f"<svg onload=\"fetch('{address}/svg')\">",
    )


def shades(picture: bytes) -> int:
    """Return how many different bytes the rows of a PNG are made of."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    data, at = b"", 8
    while at < len(picture):
        size = int.from_bytes(picture[at : at + 4])
        if picture[at + 4 : at + 8] == b"IDAT":
            data += picture[at + 8 : at + 8 + size]
        at += size + 12
    return len(set(zlib.decompress(data)))
