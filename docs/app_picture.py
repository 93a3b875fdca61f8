"""Takes docs/images/app.png, the page of mode app in headless Chromium: a page that is served, of a
model of digits by class.

    python main.py --mode app --config configs/digits_classes.py --workdir runs/classes
    python docs/app_picture.py http://127.0.0.1:7860/ docs/images/app.png

It needs playwright, and Chromium on the path.
"""

import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

WAIT = 900_000  # milliseconds


def main(address: str, path: str, width: int = 1280, height: int = 756) -> None:
    """Draws and compares; the picture has these sides at most."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(WAIT)
        page.goto(address)
        page.wait_for_selector("#draw")
        page.locator(".wanted textarea").first.fill("0 1 2 3 4 5 6 7")
        page.locator(".steps input").first.fill("8")
        page.locator("#compare input").check()
        page.click("#draw")
        page.wait_for_function(
            "document.getElementById('rms').innerText.includes('RMS')"
            " || document.querySelector('.wrong')"
        )
        page.wait_for_selector("#truth img")
        page.wait_for_timeout(1500)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=path, clip={"x": 0, "y": 0, "width": width, "height": height})
        browser.close()
    with Image.open(path) as picture:  # a fifth of the size
        few = picture.convert("RGB").quantize(48, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
