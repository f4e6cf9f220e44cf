"""The pictures of docs/playing.md, of a world that is being served: ``python -m tests.screenshots URL [scene]``."""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import MISSING, find

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
DESKTOP, PHONE, WIDE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}, {"width": 1440, "height": 900}


def begin(browser: Browser, url: str, scene: int, **options) -> Page:
    """The page, paused at a scene, with what each action does."""
    page = browser.new_page(**options)
    page.goto(url)
    page.locator(f'[data-scene="{scene}"]').click()
    page.keyboard.press("p")
    expect(page.locator("#pause")).to_have_text("Play")
    page.keyboard.press("r")
    return page


def step(page: Page, key: str, count: int) -> None:
    """Hold a key for so many single steps."""
    page.keyboard.down(key)
    for _ in range(count):
        before = page.locator("#screen").get_attribute("data-frame")
        page.keyboard.press(".")
        expect(page.locator("#screen")).not_to_have_attribute("data-frame", before, timeout=30_000)
    expect(page.locator("#actions canvas").first).to_be_visible(timeout=30_000)
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")


def save(screenshot: bytes, name: str) -> None:
    """Write a screenshot; of few colours, so that it is small."""
    picture = Image.open(BytesIO(screenshot)).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
    picture.save(PICTURES / name, optimize=True)


def main(url: str, scene: int = 0) -> None:
    path = find()
    if path is None:
        sys.exit(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = begin(browser, url, scene, viewport=DESKTOP, color_scheme="dark")
        step(page, "ArrowUp", 2)
        save(page.screenshot(), "playing_desktop.png")
        page = begin(
            browser,
            url,
            scene,
            viewport=PHONE,
            device_scale_factor=2,
            has_touch=True,
            is_mobile=True,
            color_scheme="light",
        )
        step(page, "ArrowUp", 2)
        save(page.screenshot(), "playing_phone.png")
        page = begin(browser, url, scene, viewport=WIDE, color_scheme="dark")
        page.keyboard.press("i")
        step(page, "ArrowUp", 3)
        page.fill("#inside-step", str(int(page.locator("#inside-step").get_attribute("max")) * 2 // 3))
        page.locator("#inside-step").blur()
        page.locator("#map").hover(position={"x": 200, "y": 150})
        save(page.locator("#inside").screenshot(), "playing_inside.png")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
