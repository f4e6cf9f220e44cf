"""The page in a real browser, against the real server: playing."""

import numpy as np
import pytest
from playwright.sync_api import expect

from .playing import pixels

PHONE, DESKTOP, LARGE = {"width": 360, "height": 740}, {"width": 1280, "height": 800}, {"width": 3840, "height": 2160}


def test_the_page_plays_at_once(served, join):
    player = join(served)
    first = player.frame
    player.wait_for_frame(first + 3)
    page = player.page
    assert page.title() == "test · TinyWorlds"
    buttons = page.get_by_role("group", name="Actions").get_by_role("button")
    assert [name.split("\n")[0] for name in buttons.all_inner_texts()] == ["noop", "up", "turn left", "action 3"]
    assert page.locator("#scenes button").count() == 3
    assert page.locator("#scenes img").evaluate_all("all => all.every(image => image.naturalWidth === 24)")


def test_pause_stops_and_a_step_is_one_frame(served, join):
    player = join(served)
    player.pause()
    expect(player.page.locator("#fps")).to_have_text("0.0")
    frame = player.frame
    player.press("#step", "frame")
    assert player.frame == frame + 1
    player.press("#step", "frame")
    assert player.frame == frame + 2


def test_keys_do_different_things_and_reset_returns_to_the_scene(served, join):
    player = join(served)
    player.pause()
    scene = player.press("#reset")
    up, left, again = [], [], []
    for key, pictures in (("ArrowUp", up), ("ArrowLeft", left), ("1", again)):
        pictures += player.steps(key, 3)
        assert player.press("#reset") == scene
    assert up != left
    assert up == again, "the digit is the same action as the arrow"
    assert len({scene, *up}) == 4


@pytest.mark.slow
def test_buttons_hold_as_keys_do(served, join):
    player = join(served, has_touch=True)
    player.pause()
    player.press("#reset")
    wanted = player.steps("ArrowUp", 2)
    player.press("#reset")
    button = player.page.locator(".action").nth(1)
    box = button.bounding_box()
    player.page.mouse.move(box["x"] + 5, box["y"] + 5)
    player.page.mouse.down()
    expect(button).to_have_attribute("aria-pressed", "true")
    pictures = []
    for _ in range(2):
        before = player.frame
        player.page.keyboard.press(".")
        player.wait_for_frame(before)
        pictures.append(player.picture)
    player.page.mouse.up()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert pictures == wanted


@pytest.mark.slow
def test_the_latest_of_several_keys_counts(served, join):
    page = join(served).page
    pressed = page.locator('.action[aria-pressed="true"] .action-name')
    page.keyboard.down("ArrowUp")
    expect(pressed).to_have_text("up")
    page.keyboard.down("ArrowLeft")
    expect(pressed).to_have_text("turn left")
    page.keyboard.up("ArrowLeft")
    expect(pressed).to_have_text("up")
    page.keyboard.up("ArrowUp")
    expect(pressed).to_have_count(0)


@pytest.mark.slow
def test_keys_can_be_changed_and_are_remembered(served, join):
    player = join(served)
    page = player.page
    page.get_by_role("button", name="Change the key of turn left").click()
    page.keyboard.press("k")
    pressed = page.locator('.action[aria-pressed="true"] .action-name')
    page.reload()
    player.wait_for_link()
    page.keyboard.down("k")
    expect(pressed).to_have_text("turn left")
    page.keyboard.up("k")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".action").nth(2)).to_contain_text("K")
    page.get_by_role("button", name="Keys as they were").click()
    page.keyboard.down("ArrowLeft")
    expect(pressed).to_have_text("turn left")


@pytest.mark.slow
def test_two_tabs_do_not_disturb_each_other(served, join):
    alone = join(served)
    alone.pause()
    alone.press("#reset")
    wanted = alone.steps("ArrowUp", 4)
    alone.press("#reset")
    other = join(served)  # plays on meanwhile
    other.page.keyboard.down("ArrowLeft")
    other.wait_for_frame(other.frame + 2)
    # Steps that share a batch are rounded a little differently.
    for beside_another, by_itself in zip(alone.steps("ArrowUp", 4), wanted, strict=True):
        assert np.abs(pixels(beside_another) - pixels(by_itself)).max() <= 2
    other.wait_for_frame(other.frame + 2)


@pytest.mark.slow
def test_back_to_an_earlier_frame_and_on_from_there(served, join):
    player = join(served)
    player.pause()
    scene = player.press("#reset")
    first = player.steps("ArrowUp", 3)
    slider = player.page.locator("#timeline")
    expect(slider).to_have_js_property("max", "3")
    box, before = slider.bounding_box(), player.frame
    player.page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + box["height"] / 2)
    player.wait_for_frame(before, "again")
    assert player.picture == first[0]
    assert player.steps("ArrowUp", 2) == first[1:]
    assert player.press("#back") == scene


@pytest.mark.slow
def test_scenes_are_chosen(served, join):
    player = join(served)
    player.pause()
    pictures = {player.press(f'[data-scene="{scene}"]') for scene in range(3)}
    assert len(pictures) == 3
    expect(player.page.locator('[data-scene="2"]')).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
@pytest.mark.parametrize("size", [PHONE, DESKTOP, LARGE], ids=["phone", "desktop", "4K"])
def test_nothing_is_wider_than_the_window(served, join, size):
    player = join(served, viewport=size)
    player.page.click("#look")
    player.wait_for_frame(player.frame)
    expect(player.page.locator("#inside-decoding")).to_be_visible()
    assert player.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    width, height = player.page.locator("#screen").evaluate("canvas => [canvas.width, canvas.height]")
    assert width % 24 == height % 16 == 0
    assert width > 0.4 * min(size.values())
    assert player.page.locator(".action").first.bounding_box()["height"] >= 40


@pytest.mark.slow
def test_everything_that_can_be_pressed_has_a_name(served, join):
    page = join(served).page
    page.click("#look")
    expect(page.locator("#inside-tokens")).to_be_visible()
    names = page.evaluate(
        """() => [...document.querySelectorAll("button, input, a, canvas[tabindex]")]
            .filter(one => one.checkVisibility())
            .map(one => one.ariaLabel || one.innerText?.trim() || one.labels?.[0]?.innerText)"""
    )
    assert len(names) > 15
    assert all(names)


@pytest.mark.slow
def test_dark_and_light_are_the_systems_or_chosen_and_remembered(served, join):
    def ground() -> int:
        return page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] * 1")

    player = join(served, color_scheme="light")
    page = player.page
    assert ground() > 200
    page.emulate_media(color_scheme="dark")
    assert ground() < 50
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: dark").click()
    assert ground() > 200
    page.reload()
    player.wait_for_link()
    assert ground() > 200


@pytest.mark.slow
def test_keys_of_the_page_are_not_given_away(served, join):
    page = join(served).page
    page.get_by_role("button", name="Change the key of up").click()
    page.keyboard.press("p")
    expect(page.locator("#notice")).to_contain_text("P is a key of the page")
    expect(page.locator(".action").nth(1)).to_contain_text("↑")


@pytest.mark.slow
def test_moving_the_slider_shows_earlier_frames_before_it_is_let_go(served, join):
    player = join(served)
    player.pause()
    scene = player.press("#reset")
    last = player.steps("ArrowUp", 3)[-1]
    box = player.page.locator("#timeline").bounding_box()
    middle = box["y"] + box["height"] / 2
    player.page.mouse.move(box["x"] + box["width"] - 8, middle)
    player.page.mouse.down()
    player.page.mouse.move(box["x"] + 2, middle)
    expect(player.page.locator("#timeline-text")).to_have_text("−3")
    player.page.wait_for_function("scene => document.getElementById('screen').toDataURL() === scene", arg=scene)
    player.page.mouse.move(box["x"] + box["width"] - 2, middle)
    player.page.mouse.up()
    expect(player.page.locator("#timeline-text")).to_have_text("now")
    player.page.wait_for_function("last => document.getElementById('screen').toDataURL() === last", arg=last)
