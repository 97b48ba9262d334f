"""Takes the pictures of docs/operators_page.md from the running product: the demo, its page, headless Chromium.

python docs/operators_page.py        # needs Playwright and Chromium
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from vla_ros.demo.processes import Processes
from vla_ros.view.demo import running_demo

CHROMIUM, ARGUMENTS = "/usr/bin/chromium", ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
FOLDER = Path(__file__).with_suffix("")
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
PATIENCE_S, NUM_COLOURS, MAX_BYTES = 180.0, 224, 150_000
# Longer than the demo's cameras may be silent.
SILENT_S = 1.2


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        with running_demo("tabletop", "tiny_touch", Path(folder)) as processes:
            processes.start_node("view_node", {"robot": "tabletop", "view_port": 0})
            url = wait_for(lambda: find_url(Path(folder) / "view_node.log"), "the page")
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(viewport=DESK)
            page.goto(url)
            take_pictures(page, processes)
            browser.close()


def take_pictures(page: Page, processes: Processes) -> None:
    wait_for(lambda: page.locator(".camera:not(.old)").count() == 2, "pictures of the cameras")
    wait_for(lambda: drives_on_camera(page), "the policy to drive for a while")
    save(page, "desktop")
    os.kill(processes.pid("sim_node"), signal.SIGSTOP)
    time.sleep(SILENT_S)
    save(page, "fault")
    os.kill(processes.pid("sim_node"), signal.SIGCONT)
    page.set_viewport_size(PHONE)
    wait_for(lambda: engages(page), "the policy to drive again")
    save(page, "phone")
    page.set_viewport_size(DESK)
    page.keyboard.press(" ")
    wait_for(lambda: page.inner_text("#stop-word") == "STOPPED", "the stop")
    time.sleep(1.5)  # for the reports, which come once a second
    save(page, "stop")


def drives_on_camera(page: Page) -> bool:
    """On its way from one block to another; a busy machine may end that in HOLD."""
    say(page, "touch the green block")
    if not engages(page):
        return False
    time.sleep(5.0)  # some of it in the plots
    say(page, "touch the red block")
    time.sleep(1.1)
    return page.inner_text("#mode") == "POLICY"


def say(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def engages(page: Page) -> bool:
    page.click("[data-act=engage]")
    time.sleep(0.7)
    return page.inner_text("#mode") == "POLICY"


def find_url(log: Path) -> str:
    found = re.search(r"page is at (http://[\w.:]+/)", log.read_text() if log.exists() else "")
    return found[1] if found else ""


def save(page: Page, name: str) -> None:
    """As a small PNG. Raises ValueError where it isn't."""
    page.mouse.move(5, 400)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE)
    path = FOLDER / f"{name}.png"
    image.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}: fewer colours")
    print(f"{path}: {path.stat().st_size // 1000} kB")


def wait_for(is_so: Callable[[], str | bool], what: str) -> str | bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := is_so()):
        if time.monotonic() > deadline_s:
            raise ValueError(f"waited {PATIENCE_S:g} s in vain for {what}")
        time.sleep(0.2)
    return value


if __name__ == "__main__":
    sys.exit(main())
