"""The notebook of the docs: every cell runs, and a browser shows what it is meant to show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from screenshots import CHROMIUM, OPTIONS

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "examples").glob("*.ipynb"))
#: What the page says of itself when it is shown: sizes of what must be seen.
MEASURE = """
<script>
addEventListener("load", () => {
  const size = (one) => { const r = one.getBoundingClientRect(); return [r.width, r.height]; };
  const all = (what) => [...document.querySelectorAll(what)];
  const report = document.createElement("script");
  report.type = "application/json"; report.id = "measured";
  report.textContent = JSON.stringify({
    panels: all(".civis-futures").map(size),
    bars: all(".civis-futures .cf-bar").map(size),
    parts: all(".civis-futures .cf-bar > i").map((one) => [one.className, ...size(one)]),
    rows: all(".civis-futures tbody tr").map((one) => one.innerText),
    links: all(".civis-futures a").map((one) => one.href),
    ink: all(".civis-futures .cf-title").map((one) => getComputedStyle(one).color),
  });
  document.body.append(report);
});
</script>
"""


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.name)
def rendered(request, tmp_path_factory):
    """The notebook as a page, after a run from top to bottom."""
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("rendered")
    command = [
        sys.executable, "-m", "nbconvert", "--to", "html", "--execute",
        "--output-dir", folder, request.param,
        "--HTMLExporter.require_js_url=", "--HTMLExporter.mathjax_url=",
        # A bar is drawn in one place, as in a notebook that somebody looks at.
        "--HTMLExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor",
        "--CoalesceStreamsPreprocessor.enabled=True",
    ]  # fmt: skip
    home = {"HOME": str(folder), "IPYTHONDIR": str(folder), "JUPYTER_CONFIG_DIR": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=110, env={**os.environ, **home}
    )
    assert done.returncode == 0, done.stderr
    page = folder / f"{request.param.stem}.html"
    page.write_text(page.read_text("utf-8").replace("</body>", f"{MEASURE}</body>"), "utf-8")
    return page


CELLS = (
    "from civis_futures import ContainerPoolExecutor\n"
    "executor = ContainerPoolExecutor(1, platform='local')",
    "%who_ls\ndef helper(x):\n    return 1 / x  # of a cell\n\ndef share(x):\n    return helper(x)",
    "def share_all(x):\n    return [share(each) for each in x]\n"
    "print(executor.submit(share_all, [1, 0]).exception().__cause__.text)",
    "executor.shutdown()",
)


def test_a_traceback_names_cells_and_shows_their_lines(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = tmp_path / "cells.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    home = {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--stdout", notebook],
        capture_output=True, text=True, timeout=110, env={**os.environ, **home},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [output] = json.loads(done.stdout)["cells"][2]["outputs"]
    text = "".join(output["text"])
    assert "  Cell In[3], line 2, in share_all\n    return [share(each) for each in x]\n" in text
    assert "  Cell In[2], line 6, in share\n    return helper(x)\n" in text
    assert "  Cell In[2], line 3, in helper\n    return 1 / x  # of a cell\n" in text


def browse(page, folder, *options):
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_has_no_outputs_of_its_own():
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            assert not cell.get("outputs"), path
            assert not cell.get("execution_count"), path


def test_every_cell_runs_and_shows(rendered):
    text = rendered.read_text("utf-8")
    assert text.count("%|") == text.count("8/8") == 1
    assert "ValueError: no convergence with a rate of 0.3" in text
    assert "info training with 0.4" in text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
def test_a_browser_shows_the_bar_and_the_table(rendered, tmp_path):
    page = browse(rendered, tmp_path, "--window-size=1100,900", "--dump-dom")
    found = re.search(r'<script type="application/json" id="measured">(.*?)</script>', page, re.S)
    measured = json.loads(found[1])
    assert len(measured["panels"]) == 4
    assert all(width > 300 and height > 50 for width, height in measured["panels"])
    assert all(width > 300 and height > 4 for width, height in measured["bars"])
    kinds = {kind for kind, width, height in measured["parts"] if width > 2 and height > 4}
    # The executor was shown while a task ran; what is shown may have followed that to its end.
    assert {"succeeded", "failed"} < kinds
    assert kinds <= {"succeeded", "failed", "running", "cancelled"}
    first, why = measured["rows"][:2]
    assert "failed" in first
    assert "no convergence with a rate of 0.3" in why
    assert any(link.startswith("http://127.0.0.1") for link in measured["links"])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
def test_a_screenshot(rendered, tmp_path):
    # `make screenshots` makes those of the docs.
    picture = tmp_path / "notebook.png"
    browse(rendered, tmp_path, "--window-size=1100,2900", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 100_000  # the browser's page of an error has less
