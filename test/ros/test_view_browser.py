"""The operator's page in a real browser, on the running demo. Its pictures are kept in ``VLA_ROS_PICTURES``, where that
is set."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from child_process import child_environment
from PIL import Image
from ros_harness import START_PATIENCE_S
from waiting import wait_until

pytest.importorskip("vla_ros.sim.world")
pytest.importorskip("websockets", reason="needs the extra view: pip install 'vla_ros[view]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

from vla_ros.view.operator import UNSEEN_S  # noqa: E402  what it needs comes first

# Without a GPU WebGL is drawn by the CPU.
ARGUMENTS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
RED, BLUE = (209, 36, 47), (31, 111, 235)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("view")


@pytest.fixture(scope="module")
def view(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The page, with the demo in a domain of its own choice beside it."""
    env = {key: value for key, value in child_environment().items() if key != "ROS_DOMAIN_ID"}
    command = [sys.executable, "-m", "vla_ros.cli", "view", "--demo", "--port", "0", "--out", str(folder)]
    with (folder / "view.log").open("wb") as file:
        view = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    yield view
    view.send_signal(signal.SIGINT)
    assert view.wait(60) == 0, (folder / "view.log").read_text()


@pytest.fixture(scope="module")
def url(view: subprocess.Popen[bytes], folder: Path) -> str:
    def found() -> re.Match[str] | None:
        log = (folder / "view.log").read_text()
        assert view.poll() is None, log
        return re.search(r"page is at (http://[\w.:]+/)", log)

    return wait_until(found, "its page", START_PATIENCE_S)[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: playwright.Browser, url: str) -> Iterator[playwright.Page]:
    page = browser.new_page(viewport=DESK)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(url)
    page.wait_for_selector("#acts", state="attached")
    if page.inner_text("#mode") == "ESTOP":  # as a test that failed has left it
        reset(page)
    yield page
    page.close()
    assert errors == []


def picture(page: playwright.Page, name: str) -> np.ndarray:
    """What is to be seen: uint8 ``[height, width, 3]``."""
    data = page.screenshot()
    if folder := os.environ.get("VLA_ROS_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(data)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def wait_for_text(page: playwright.Page, selector: str, text: str) -> None:
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).textContent.includes(text)",
        arg=[selector, text],
        timeout=1000 * START_PATIENCE_S,
    )


def reset(page: playwright.Page) -> None:
    page.wait_for_timeout(1000 * UNSEEN_S)
    page.click("[data-act=reset]")
    wait_for_text(page, "#mode", "HOLD")


def joints(page: playwright.Page) -> np.ndarray:
    return np.array([float(text) for text in page.locator("#joints output").all_inner_texts() if text != "–"])


def share(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(image.astype(int) - colour).max(axis=-1) < 12).mean())


def test_an_operator_says_what_to_do_engages_sees_it_move_and_stops_it(page):
    wait_for_text(page, "#mode", "HOLD")
    page.wait_for_function("() => document.querySelectorAll('.camera:not(.old)').length === 2", timeout=60_000)
    wait_until(lambda: len(joints(page)) == 6, "joints")
    before = joints(page)
    page.fill("#text", "touch the <b>red</b> block")
    page.press("#text", "Enter")
    wait_for_text(page, "#task", "touch the <b>red</b> block")
    assert page.locator("#task b").count() == 0, "text, not markup"
    page.fill("#text", "touch the red block")
    page.press("#text", "Enter")
    wait_for_text(page, "#task", "touch the red block")

    def drives() -> bool:  # as soon as both nodes are up
        page.click("[data-act=engage]")
        page.wait_for_timeout(1000)
        return page.inner_text("#mode") == "POLICY"

    wait_until(drives, "POLICY", START_PATIENCE_S)
    wait_until(lambda: np.abs(joints(page) - before).max() > 0.1, "that the arm moves")
    image = picture(page, "desktop")
    assert share(image[:90], BLUE) > 0.4, "the mode is a colour"
    arm = page.locator("#scene").bounding_box()
    drawn = image[int(arm["y"]) + 60 : int(arm["y"] + arm["height"]), int(arm["x"]) : int(arm["x"] + arm["width"])]
    assert (drawn.min(axis=-1) > 120).mean() > 0.002, "the arm is drawn"
    camera = page.locator(".camera canvas").first.evaluate("canvas => [canvas.width, canvas.height]")
    assert camera == [128, 128]

    page.keyboard.press(" ")
    wait_for_text(page, "#mode", "ESTOP")
    wait_for_text(page, "#stop-word", "STOPPED")
    assert share(picture(page, "stop")[:90], RED) > 0.3
    wait_for_text(page, "#act-list", "stop")
    reset(page)


def test_a_phone_shows_cameras_mode_and_a_stop_that_stops(page):
    page.set_viewport_size(PHONE)
    wait_for_text(page, "#mode", "HOLD")
    page.wait_for_function("() => document.querySelectorAll('.camera:not(.old)').length === 2", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "nothing to scroll sideways"
    for selector in ("#mode", ".camera", "#stop"):
        box = page.locator(selector).first.bounding_box()
        assert (
            box["y"] >= 0 and box["y"] + box["height"] <= PHONE["height"] and box["x"] + box["width"] <= PHONE["width"]
        )
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.locator("#stop").bounding_box()["y"] + page.locator("#stop").bounding_box()["height"] == PHONE["height"]
    page.evaluate("window.scrollTo(0, 0)")
    picture(page, "phone")
    page.click("#stop")
    wait_for_text(page, "#mode", "ESTOP")
    reset(page)


def test_a_space_in_an_instruction_stops_nothing(page):
    wait_for_text(page, "#mode", "HOLD")
    page.focus("#text")
    page.keyboard.type("touch the red block")
    assert page.input_value("#text") == "touch the red block"
    page.wait_for_timeout(500)
    assert page.inner_text("#mode") == "HOLD"


def test_a_page_whose_server_is_silent_says_that_its_stop_reaches_nobody(page, view):
    wait_for_text(page, "#mode", "HOLD")
    assert page.is_hidden("#lost")
    view.send_signal(signal.SIGSTOP)
    try:
        page.wait_for_selector("#lost", state="visible", timeout=10_000)
        wait_for_text(page, "#stop-word", "NO LINK")
        picture(page, "lost")
    finally:
        view.send_signal(signal.SIGCONT)
    page.wait_for_selector("#lost", state="hidden", timeout=60_000)
    wait_for_text(page, "#mode", "HOLD")
