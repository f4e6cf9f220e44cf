"""A player at the page, in a real browser."""

from base64 import b64decode
from io import BytesIO

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

TIMEOUT = 60_000  # ms; so long only where many share the machine
expect.set_options(timeout=TIMEOUT)

PIXELS = "canvas => canvas.toDataURL()"


class Player:
    """A player at the page of a served world, and what the page complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url, self.complaints = page, url, []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.set_default_timeout(TIMEOUT)
        page.goto(url)

    def wait_for_link(self) -> None:
        expect(self.page.locator("#link")).to_have_text("connected")
        self.wait_for_frame(0)

    @property
    def frame(self) -> int:
        return int(self.page.locator("#screen").get_attribute("data-frame") or 0)

    @property
    def picture(self) -> str:
        return self.page.locator("#screen").evaluate(PIXELS)

    def wait_for_frame(self, after: int, kind: str | None = None) -> None:
        """Until a later frame is drawn: any, an imagined one (``frame``), or one that is shown `again`."""
        self.page.wait_for_function(
            "([after, kind]) => { const { dataset } = document.getElementById('screen');"
            "return Number(dataset.frame) > after && (!kind || dataset.kind === kind) }",
            arg=[after, kind],
        )

    def pause(self) -> None:
        """Pause; one frame may still be on the way."""
        self.page.keyboard.press("p")
        expect(self.page.locator("#pause")).to_have_text("Play")

    def press(self, selector: str, kind: str = "again") -> str:
        """Click on what brings a new picture, and return that picture."""
        before = self.frame
        self.page.click(selector)
        self.wait_for_frame(before, kind)
        return self.picture

    def steps(self, key: str, count: int) -> list[str]:
        """The pictures of so many single steps while a key is held."""
        self.page.keyboard.down(key)
        pictures = [self.press("#step", "frame") for _ in range(count)]
        self.page.keyboard.up(key)
        return pictures


def pixels(picture: str) -> np.ndarray:
    """Of a picture of the screen, as `Player.picture` has it."""
    return np.asarray(Image.open(BytesIO(b64decode(picture.split(",")[1]))).convert("RGB")).astype(int)
