"""The page in a real browser, against the real server: what is inside a frame, and what each action does."""

import numpy as np
import pytest
from playwright.sync_api import expect

from tinyworlds.maskgit import reveal_counts

from .playing import Player, pixels

pytestmark = pytest.mark.slow
TOKENS, STEPS = 6, 4  # of the world of the tests


def look_inside(join, served, **options) -> Player:
    """A player who has looked inside one step from the scene."""
    player = join(served, **options)
    player.pause()
    player.press("#reset")
    player.page.keyboard.press("i")
    expect(player.page.locator("#inside-tokens")).to_be_visible()
    player.press("#step", "frame")
    expect(player.page.locator("#film li")).to_have_count(STEPS)
    return player


def test_each_decoding_step_shows_what_it_keeps(served, join, dynamics):
    page = look_inside(join, served).page
    kept = [int(text.split()[0].removeprefix("+")) for text in page.locator("#film small").all_inner_texts()]
    assert kept == reveal_counts(TOKENS, steps=STEPS, schedule=dynamics.decoding.schedule)
    shown = []
    for step in range(STEPS + 1):
        page.fill("#inside-step", str(step))
        expect(page.locator("#kept-text")).to_have_text(f"{sum(kept[:step])} of {TOKENS} tokens.")
        shown.append(page.locator("#kept").evaluate("canvas => canvas.toDataURL()"))
    assert len(set(shown)) == STEPS + 1


def test_at_the_last_step_the_frame_is_whole(served, join):
    player = look_inside(join, served)
    player.page.fill("#inside-step", str(STEPS))
    player.page.hover("#map", position={"x": 2, "y": 2})  # the first token is marked, the others show the frame
    whole = pixels(player.page.locator("#kept").evaluate("canvas => canvas.toDataURL()"))
    screen = pixels(player.picture)
    for row, column in ((4, 12), (12, 4), (12, 20)):  # the middles of patches, in pixels of the world
        there = [
            picture[int((row + 0.5) / 16 * len(picture)), int((column + 0.5) / 24 * picture.shape[1])]
            for picture in (whole, screen)
        ]
        assert np.abs(there[0] - there[1]).max() <= 1


def test_a_token_tells_its_story(served, join):
    page = look_inside(join, served).page
    stories = set()
    for token in range(TOKENS):
        page.locator("#map").focus()
        text = page.locator("#token").inner_text()
        assert f"row {token // 3 + 1}, column {token % 3 + 1}" in text
        assert "one of 27: 3 numbers of 3 levels each" in text
        guesses = page.locator("#token .story").first.locator("li")
        assert "kept" in guesses.last.inner_text()
        assert page.locator("#token li", has_text="kept").count() == 1
        stories.add(text)
        page.keyboard.press("ArrowDown" if token == 2 else "ArrowRight")
        if token == 2:
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowLeft")
    assert len(stories) == TOKENS


def test_the_beginning_of_a_scene_is_shown_beside_the_truth(served, join):
    player = look_inside(join, served)
    expect(player.page.locator("#shown-text")).to_have_text("The frame on the screen.")
    player.press("#reset")
    expect(player.page.locator("#shown-text")).to_have_text("The true frame.")
    expect(player.page.locator("#inside-empty")).to_be_visible()
    expect(player.page.locator("#alone-facts")).to_contain_text("dB.")


def test_slow_motion_takes_the_next_step_by_itself(served, join):
    player = look_inside(join, served, reduced_motion="reduce")  # not so slow
    player.page.get_by_label("Slow motion").check()
    player.wait_for_frame(player.frame + 1, "frame")
    player.page.keyboard.press("p")
    expect(player.page.get_by_label("Slow motion")).not_to_be_checked()


def test_each_action_shows_what_it_does_from_here(served, join):
    player = join(served)
    player.page.click("#preview")
    pictures = player.page.locator("#actions canvas")
    expect(player.page.locator("#pause")).to_have_text("Play")
    for index in range(4):
        expect(pictures.nth(index)).to_be_visible()
    player.page.wait_for_function("""() => {
        const all = [...document.querySelectorAll("#actions canvas")]
        const blank = document.createElement("canvas")
        Object.assign(blank, {width: all[0].width, height: all[0].height})
        const seen = all.map(canvas => canvas.toDataURL())
        return !seen.includes(blank.toDataURL()) && new Set(seen).size > 1
    }""")
