"""The page in a real browser, where one is installed: nothing clipped, nothing empty, legible at two widths."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ganpo_report.page import make_page
from run_samples import GAME, GOOD, MakeRun, lines

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000", "--dump-dom",
)  # fmt: skip
MEASURE = """
<script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, width = frame.clientWidth;
  const boxed = (e) => e.parentElement.closest(".scroll") !== null;
  const wide = [...page.body.querySelectorAll("*")].filter((e) => !boxed(e) && !e.parentElement.closest("svg"))
    .filter((e) => e.getBoundingClientRect().right > width + 1).map((e) => e.tagName + "." + e.className);
  const clipped = [...page.querySelectorAll("figure svg[role=img] text")].filter((e) => {
    const own = e.getBoundingClientRect(), frame = e.closest("svg").getBoundingClientRect();
    return own.left < frame.left - 2 || own.right > frame.right + 2 || own.bottom > frame.bottom + 2 || own.top < frame.top - 2;
  }).map((e) => e.textContent);
  const heights = [...page.querySelectorAll("figure svg[role=img] text")].map((e) => e.getBoundingClientRect().height);
  const charts = [...page.querySelectorAll("figure svg[role=img]")].map((e) => e.getBoundingClientRect().height);
  const empty = [...page.querySelectorAll("section")].filter((e) => e.innerText.trim().split("\\n").length < 2).map((e) => e.id);
  const size = parseFloat(getComputedStyle(page.body).fontSize);
  document.body.innerHTML = "<pre>" + JSON.stringify({scroll: page.documentElement.scrollWidth, wide, clipped, empty,
    text: Math.min(...heights), chart: Math.min(...charts), charts: charts.length, size}) + "</pre>";
};
frame.srcdoc = frame.dataset.page;
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser installed: none of {', '.join(BROWSERS)}")
    return found


def measured(browser: str, page: str, width: int, folder: Path) -> dict[str, Any]:
    """What the browser makes of the page at a width; in a frame, since its own window is never narrower than 500."""
    frame = f'<iframe style="width:{width}px;height:2000px;border:0" data-page="{html.escape(page)}"></iframe>'
    target = folder / "frame.html"
    target.write_text(f"<!doctype html><meta charset=utf-8><body style='margin:0'>{frame}{MEASURE}", encoding="utf-8")
    command = [browser, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,2200", target.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


@pytest.mark.parametrize("width", [1280, 480])
def test_nothing_is_clipped_empty_or_too_small(browser: str, width: int, make_run: MakeRun, tmp_path: Path) -> None:
    sweep = [
        {"policy": name, "temperature": t, "valid": 0.9 - t / 3, "a column with a long name": 1.0, "another such column": 2.0}
        for name in ("reference", "a_policy_with_quite_a_long_name") for t in (0.5, 1.0, 1.5)
    ]  # fmt: skip
    samples = [{"instruction": "word " * 60, "output": "unbroken" * 40, "generator": "dpo"}]
    runs = [
        make_run(name="dpo", files={"samples.json": json.dumps(samples), "evaluation/sweep.json": json.dumps(sweep)}),
        make_run(lines(**GOOD, **GAME), "a_run_with_a_rather_long_name_for_its_folder", {"divergence": {"use": "ragan"}}),
    ]
    found = measured(browser, make_page(runs), width, tmp_path)
    assert (found["wide"], found["clipped"], found["empty"]) == ([], [], [])
    assert found["scroll"] <= width
    assert found["charts"] >= 12
    assert found["chart"] > 150
    assert found["size"] >= 16
    assert found["text"] >= 9
