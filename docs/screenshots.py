"""Makes the pictures in `docs/images` anew, light and dark: `make screenshots`.

It needs chromium, and what the tests need. The notebook is run from top to bottom; the page of a
local platform is looked at while a pool works there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from civis_futures import Container, ContainerPoolExecutor
from civis_futures.local import LocalPlatform

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
#: What Chromium calls the colours that a user prefers.
SCHEMES = {
    "": "--blink-settings=preferredColorScheme=1",
    "-dark": "--blink-settings=preferredColorScheme=0",
}


def take(url, picture, size, *options):
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                CHROMIUM, *OPTIONS, *options, f"--user-data-dir={profile}",
                "--virtual-time-budget=6000",
                f"--window-size={size}", f"--screenshot={picture}", url,
            ],
            check=True,
            timeout=120,
        )  # fmt: skip
    print(picture)


def notebook(folder):
    home = {"HOME": folder, "IPYTHONDIR": folder, "JUPYTER_CONFIG_DIR": folder}
    for suffix, scheme in SCHEMES.items():
        subprocess.run(
            [
                sys.executable, "-m", "nbconvert", "--to", "html", "--execute",
                "--output-dir", folder, HERE / "examples" / "tutorial.ipynb",
                f"--HTMLExporter.theme={'dark' if suffix else 'light'}",
                "--HTMLExporter.require_js_url=", "--HTMLExporter.mathjax_url=",
                "--HTMLExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor",
                "--CoalesceStreamsPreprocessor.enabled=True",
            ],
            check=True,
            env={**os.environ, **home},
        )  # fmt: skip
        page = Path(folder, "tutorial.html").as_uri()
        take(page, HERE / "images" / f"notebook{suffix}.png", "1000,1500", scheme)


def fit(seconds):
    print("fitting for", seconds, "s")
    time.sleep(seconds)


def page():
    container = Container(required_resources={"cpu": 250, "memory": 256})
    with (
        LocalPlatform() as platform,
        ContainerPoolExecutor(
            3, container=container, platform=platform, name="grid search"
        ) as executor,
    ):
        done = executor.map(fit, [0.5] * 24, chunksize=1)
        list(done)
        waiting = [executor.submit(fit, 3600) for _ in range(3)]
        while not all(future.running() for future in waiting):
            time.sleep(0.1)
        # Each picture has a browser of its own, and a link opens the page once.
        for suffix, scheme in SCHEMES.items():
            take(platform.page, HERE / "images" / f"page{suffix}.png", "1000,620", scheme)
        for future in waiting:
            future.cancel()


if __name__ == "__main__":
    if CHROMIUM is None:
        sys.exit("chromium is needed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        notebook(folder)
    page()
