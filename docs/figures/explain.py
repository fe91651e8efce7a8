"""The page of `convbias explain` as a picture: python docs/figures/explain.py

Needs Playwright and a Chromium on the PATH.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from convbias.explaining import write

SIZE = {"width": 1280, "height": 1050}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "explain.html"
        write(page)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
        )
        opened = browser.new_page(viewport=SIZE)
        opened.goto(f"{page.as_uri()}#bias=tap&at=0+0+4")
        opened.wait_for_timeout(500)
        opened.screenshot(path=Path(__file__).with_suffix(".png"))
        browser.close()
