"""The HTML report in a real browser: every picture is decoded, nothing is loaded, and it is not blank."""

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from common import plotting
from common.artifacts import Table
from common.html_report import html_report

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1400,1000",
)  # fmt: skip
MEASURE = """<script>addEventListener("load", () => {
  const images = [...document.images];
  document.body.dataset.sizes = JSON.stringify(images.map(i => [i.complete, i.naturalWidth, i.naturalHeight]));
  document.body.dataset.widths = JSON.stringify(images.map(i => Math.round(i.getBoundingClientRect().width)));
  document.body.dataset.overflow = document.documentElement.scrollWidth > innerWidth;
});</script></body>"""
POLICY = "default-src 'none'; "


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        message = f"none of {', '.join(BROWSERS)} is installed: `apt-get install chromium`"
        assert not os.environ.get("REQUIRE_BROWSER"), message
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with a curve, a wide picture and text that would be a script if it were not escaped."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    curve = plotting.line_curves(
        folder / "cmc.png", {"a": ([1, 2, 3], [50, 70, 80])}, "rank", "share, %", "CMC"
    )
    faces = plotting.image_grid(
        folder / "grid.png", list(random.integers(0, 255, (11, 64, 32, 3), np.uint8)), 11
    )
    table = Table("Retrieval, %", ("model", "rank1"), (("<img src=x onerror=alert(1)>", 97.5), ("b", None)))
    return html_report(
        folder / "report.html", "Evaluation of <b>a</b>", ["One sentence."], [table],
        [(curve, "A curve."), (curve, "Again."), (faces, "Faces.")],
    )  # fmt: skip


def _open(browser, page, folder, *options):
    """What the browser prints for a local page."""
    result = subprocess.run(
        [browser, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def _asked_for(log):
    """Addresses that a local page asked the network for; the browser's own requests belong to no page."""
    events = (event.get("params", {}) for event in json.loads(log.read_text())["events"])
    return {event["url"] for event in events if "file://" in event.get("network_isolation_key", "")}


def _size(path):
    with Image.open(path) as image:
        return image.size


def _with_script(report, folder):
    """The page with a script that measures it; the report's own policy allows none."""
    text = report.read_text(encoding="utf-8")
    assert text.count(POLICY) == 1 and text.count("</body>") == 1
    copy = folder / "measured.html"
    copy.write_text(text.replace(POLICY, f"{POLICY}script-src 'unsafe-inline'; ").replace("</body>", MEASURE))
    return copy


def test_every_picture_is_decoded_and_text_stays_text(browser, report, tmp_path):
    page = _open(browser, _with_script(report, tmp_path), tmp_path, "--dump-dom")
    data = {name: json.loads(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', page)}
    expected = [_size(report.with_name(name)) for name in ("cmc.png", "cmc.png", "grid.png")]
    assert data["sizes"] == [[True, *size] for size in expected]
    small, other, wide = data["widths"]
    assert small == other and wide > 2 * small  # curves side by side, the sheet below them
    assert data["overflow"] is False
    assert "Evaluation of &lt;b&gt;a&lt;/b&gt;" in page
    assert page.count("<img") == 3


def test_the_page_is_drawn_and_asks_the_network_for_nothing(browser, report, tmp_path):
    picture, log = tmp_path / "page.png", tmp_path / "net.json"
    _open(browser, report, tmp_path, f"--screenshot={picture}", f"--log-net-log={log}")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (1000, 1400, 3)
    blue = np.abs(pixels - (0x25, 0x63, 0xEB)).sum(axis=-1) < 30
    assert blue.sum() > 100  # the curve
    assert _asked_for(log) == set()
    control = tmp_path / "control.html"
    control.write_text('<img src="http://control.invalid/x.png">')
    _open(browser, control, tmp_path, f"--screenshot={picture}", f"--log-net-log={log}")
    assert _asked_for(log) == {"http://control.invalid/x.png"}  # so it would have been seen


def test_it_adapts_to_dark_mode_and_to_a_narrow_window(browser, report, tmp_path):
    shades = {}
    for name, options in {
        "light": (),
        "dark": ("--force-dark-mode",),
        "narrow": ("--window-size=500,900",),
    }.items():
        picture = tmp_path / f"{name}.png"
        _open(browser, report, tmp_path, f"--screenshot={picture}", *options)
        with Image.open(picture) as image:
            shades[name] = image.convert("L").getpixel((2, 2))
    assert shades["dark"] < 40 < 200 < shades["light"] == shades["narrow"]
    page = _open(browser, _with_script(report, tmp_path), tmp_path, "--dump-dom", "--window-size=500,900")
    assert 'data-overflow="false"' in page
