"""Pictures of every tab of the studio, at three widths and in both themes, to be looked at.

    python -m tests.studio.screens [--out runs/screens] [--run emoji] [--run emoji-scribble]

A server of the models is started and used as a person would: a prompt, a sketch, a picture to
evaluate, its chain, two models on it. The folder is one that git ignores.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import math
import time
from pathlib import Path

from selenium.webdriver import ActionChains

from tests.studio.browser import Page
from tests.studio.running import running

WIDTHS = {390: 844, 820: 1180, 1440: 900}
_TABS = ("generate", "edit", "evaluate", "process", "compare")


def draw_apple(page: Page) -> None:
    """An apple with a stalk, by the mouse."""
    canvas = page.get("#sketch canvas")
    page.script("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    side = canvas.size["width"]
    for centre, radius, turns in (((0.0, 0.05), 0.32, 1.0), ((0.12, -0.3), 0.12, 0.4)):
        at = [
            (
                round(side * (centre[0] + radius * math.cos(2 * math.pi * turns * k / 24))),
                round(side * (centre[1] + radius * math.sin(2 * math.pi * turns * k / 24))),
            )
            for k in range(25)
        ]
        stroke = ActionChains(page.driver, duration=10)
        stroke.move_to_element_with_offset(canvas, *at[0]).click_and_hold()
        for before, after in itertools.pairwise(at):
            stroke.move_by_offset(after[0] - before[0], after[1] - before[1])
        stroke.release().perform()


def use(page: Page, picture: Path) -> None:
    """Everything that a tab has, so that it is there to be seen."""
    page.open("generate")
    if page.script("return !document.querySelector('#generate [data-for=control]').hidden"):
        draw_apple(page)
    page.set("#generate-prompt", "red apple")
    page.start("generate", "document.querySelector('.command')")
    url = page.get(".picture img").get_attribute("src")
    picture.write_bytes(base64.b64decode(url.partition(",")[2]))
    page.show("edit")
    page.get("#edit-image").send_keys(str(picture))
    page.start("edit", "document.querySelector('#edit .command')")
    page.show("evaluate")
    page.get("#evaluate-image").send_keys(str(picture))
    page.start("evaluate", "document.querySelector('#evaluate [data-stop]').hidden")
    page.show("process")
    page.get("#process-image").send_keys(str(picture))
    page.start("process", "document.querySelector('.curve-box svg')")
    page.set("#level", 20)
    page.show("compare")
    if page.script("return !document.querySelector('#two-models').hidden"):
        page.get("#compare-image").send_keys(str(picture))
        page.start("compare", "document.querySelector('#compare [data-stop]').hidden")


def shoot(page: Page, out: Path) -> None:
    """Each tab as it is now, at each width and in each theme, whole."""
    for theme in ("light", "dark"):
        if page.script("return document.documentElement.dataset.theme") != theme:
            page.get("#theme").click()
        for width, height in WIDTHS.items():
            for tab in _TABS:
                page.resize(width, height)
                page.show(tab)
                time.sleep(0.3)  # for transitions to end
                whole = page.script("return document.documentElement.scrollHeight")
                page.resize(width, max(height, min(whole, 4000)))
                page.driver.save_screenshot(str(out / f"{tab}-{width}-{theme}.png"))
                # Of a phone the inner width grows with what is too wide, and hides it.
                over = page.script(
                    "const { scrollWidth, clientWidth } = document.documentElement;"
                    "return scrollWidth - clientWidth"
                )
                if over > 0:
                    print(f"{tab} at {width}: {over} pixels wider than the window")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/screens"))
    parser.add_argument("--run", action="append")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with running(options.out / "log.txt", *(options.run or ["emoji-scribble", "emoji"])) as server:
        page = Page(server.address, patience=1800.0)
        try:
            use(page, (options.out / "picture.png").resolve())
            shoot(page, options.out)
        finally:
            page.driver.quit()


if __name__ == "__main__":
    main()
