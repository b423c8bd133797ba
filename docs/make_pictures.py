"""Screenshots of a report for README and docs/report.md: parts of `report.html` in Chromium, in light colors.

python docs/make_pictures.py multirun/NAME/report.html [--browser /usr/bin/chromium] [--output docs/pictures]

Use a study of synthetic images: photographs of other people have a copyright.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH = 1100
PARTS = {
    "answer": "#summary",
    "leaderboard": "#leaderboard",
    "effects": "#effects",
    "search": "#search figure:first-of-type",
    "curves": "#curves",
    "final": "#final",
    "classes": "#classes",
    "gallery": "#gallery",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "pictures")
    arguments = parser.parse_args()
    if arguments.browser is None:
        parser.error("--browser: no Chromium found; install Chromium or pass --browser PATH")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 2400}, color_scheme="light")
        page.set_default_timeout(120_000)
        page.goto(arguments.report.resolve().as_uri())
        if page.locator("#maps").count():
            page.uncheck("#maps")
        for name, selector in PARTS.items():
            part = page.locator(selector).first
            if part.count():
                part.scroll_into_view_if_needed()
                # Figures are rendered when they are scrolled into view.
                page.wait_for_timeout(1500)
                part.screenshot(path=arguments.output / f"{name}.png")
                print(arguments.output / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
