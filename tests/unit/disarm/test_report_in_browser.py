"""The page of a report in a real browser: what it makes of it, and what it asks for."""

from __future__ import annotations

import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from safemodel.reports import DisarmReport, KeptTensor
from tests.unit.disarm.helpers_report import HOSTILE, folder, hostile
from tests.unit.disarm.test_html_report import ATTRIBUTES, HARMLESS, Page

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge",
)  # fmt: skip
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE_S = 120

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed to look at the page with"
)


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Yield an address of this machine, and the paths that anyone asks it for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", paths
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


def test_a_browser_finds_nothing_to_run_and_asks_for_nothing(tmp_path, asked):
    """The page it makes is the page that was written: same text, same elements."""
    address, paths = asked
    names = reaching(address)
    kept = tuple(KeptTensor(name=name, dtype=name, shape=()) for name in names)
    report = DisarmReport(**{**vars(hostile()), "tensors": kept, "path": names[0]})
    written = report.to_html()
    seen = Page(browse(tmp_path, written, "--dump-dom", "--virtual-time-budget=3000"))
    assert paths == []
    assert set(seen.tags) <= HARMLESS
    assert {name for _, name, _ in seen.attributes} <= ATTRIBUTES
    meant = Page(written)
    assert seen.title == meant.title == f"Disarm report: {names[0]}"
    assert seen.text == meant.text
    assert seen.tags == meant.tags
    assert all(name in seen.text for name in (*names, HOSTILE[0]))


def test_the_browser_would_have_asked(tmp_path, asked):
    """The trap works: the same names unescaped, without a policy, reach it and run."""
    address, paths = asked
    page = f"<title>x</title>{''.join(reaching(address)[:3])}"
    seen = browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=3000")
    assert "/img" in paths
    assert Page(seen.split("<body>")[0]).title == "run"


def test_the_policy_alone_stops_what_would_run(tmp_path, asked):
    """Were something not escaped, nothing would be asked for and nothing would run."""
    address, paths = asked
    harm = "".join(reaching(address)[:3])
    page = folder().to_html().replace("<main>", f"<main>{harm}")
    seen = browse(tmp_path, page, "--dump-dom", "--virtual-time-budget=3000")
    assert paths == []
    assert "<title>Disarm report: hub</title>" in seen


def test_a_browser_draws_the_page(tmp_path):
    """A screenshot has something on it."""
    picture = tmp_path / "page.png"
    browse(tmp_path, folder().to_html(), f"--screenshot={picture}")
    assert shades(picture.read_bytes()) > 50


def test_an_empty_picture_is_seen_to_be_one(tmp_path):
    """The check of the screenshot can fail."""
    picture = tmp_path / "page.png"
    browse(tmp_path, "<!doctype html><title>x</title>", f"--screenshot={picture}")
    assert shades(picture.read_bytes()) < 5


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
