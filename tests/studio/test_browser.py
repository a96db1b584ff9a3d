"""The page in a browser: what its users do, with a mouse, a file, a slider, and keys alone."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import nelbo
from nelbo.data import load_data
from nelbo.families import PPCA
from nelbo.studio.server import Studio
from tests.studio.conftest import picture
from tests.studio.running import in_thread

pytest.importorskip("selenium", reason="pip install 'nelbo[dev]'")

from selenium.webdriver import ActionChains, Keys

from tests.studio.browser import BROWSER, DRIVER, Page

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="no Chromium: apt-get install -y chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(digits, controlled, tmp_path_factory):
    ppca = tmp_path_factory.mktemp("family") / "ppca"
    nelbo.save(PPCA(2).fit(load_data("digits", "test").subset(40, 0)), ppca)
    models = {"controlled": controlled, "digits": digits, "gone": "/nowhere/gone", "ppca": ppca}
    models = {name: str(path) for name, path in models.items()}
    with in_thread(Studio(models, lambda: torch.device("cpu"), preload=False)) as found:
        page = Page(found)
        yield page
        page.driver.quit()


@pytest.fixture
def page(browser):
    browser.open()
    yield browser
    severe = [log for log in browser.driver.get_log("browser") if log["level"] == "SEVERE"]
    # A request that is refused is reported by the browser as well as by the page.
    assert [log for log in severe if "/api/" not in log["message"]] == []


@pytest.fixture(scope="module")
def upload(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    path.write_bytes(picture(size=(16, 16))[1][1])
    return path


def digits_of(page: Page) -> str:
    return page.all("#model option")[1].get_attribute("value")


def drop(page: Page, content: bytes, name: str = "a.png") -> None:
    """Drop a file on the tab."""
    page.script(
        """const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], arguments[1], { type: 'image/png' }));
        const event = new Event('drop', { bubbles: true });
        event.dataTransfer = files;
        document.querySelector('#generate').dispatchEvent(event);""",
        base64.b64encode(content).decode(),
        name,
    )


def drop_picture(page: Page, index: int) -> None:
    """Drop a picture of the gallery back on the tab."""
    url = page.all(".picture img")[index].get_attribute("src")
    drop(page, base64.b64decode(url.partition(",")[2]))


def dark(page: Page) -> int:
    """How many pixels of the sketch are dark."""
    return page.script(
        """const c = document.querySelector('#sketch canvas');
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        return data.filter((value, i) => i % 4 === 0 && value < 100).length"""
    )


def test_generate_from_a_prompt_and_restore_its_settings(page):
    page.get("#generate-prompt").send_keys("red cat")
    for selector, value in (("#generate-n", 2), ("#generate-steps", 3), ("#generate-seed", 41)):
        page.set(selector, value)
    page.get("#generate [data-start]").click()
    page.until("document.querySelector('.command')")
    assert len(page.all(".picture img[src^='data:image/png']")) == 2
    assert "--prompt 'red cat'" in page.get(".command code").text
    assert int(page.get("#generate-seed").get_attribute("value")) != 41
    outside = page.script(
        "return performance.getEntriesByType('resource').map(({ name }) => name)"
        ".filter((name) => !name.startsWith(location.origin) && !name.startsWith('data:'))"
    )
    assert outside == []
    # Back from its own PNG, dropped on the page.
    page.set("#generate-prompt", "another")
    drop_picture(page, 1)
    page.until("document.querySelector('#generate-prompt').value == 'red cat'")
    page.until("document.querySelector('#generate-seed').value == '41'")
    assert page.get("#generate-steps").get_attribute("value") == "3"
    assert page.get("#generate-n").get_attribute("value") == "2"


def test_draw_a_sketch_with_the_mouse(page):
    canvas = page.get("#sketch canvas")
    page.script("arguments[0].scrollIntoView({ block: 'center' })", canvas)
    strokes = ActionChains(page.driver).move_to_element_with_offset(canvas, -50, -20)
    strokes.click_and_hold().move_by_offset(60, 10).move_by_offset(10, 40).release().perform()
    drawn = dark(page)
    assert drawn > 200
    page.get("#generate-prompt").send_keys("dog")
    page.set("#generate-n", 1)
    page.set("#generate-steps", 2)
    page.get("#generate [data-start]").click()
    page.until("document.querySelector('.command')")
    assert "--control sketch.png" in page.get(".command code").text
    # Back with the picture that was drawn from it.
    picture = page.get(".picture img").get_attribute("src")
    page.script(
        "[...document.querySelectorAll('#sketch button')]"
        ".find(({ textContent }) => textContent == 'Clear').click()"
    )
    assert dark(page) == 0
    drop_picture(page, 0)
    page.until("document.querySelector('#toasts').textContent.includes('Settings restored')")
    assert dark(page) == pytest.approx(drawn, rel=0.05)
    page.get("#generate [data-start]").click()
    page.until("document.querySelectorAll('.command').length == 2")
    assert page.get(".picture img").get_attribute("src") == picture


def test_a_picture_as_the_sketch_goes_out_as_it_came(page, upload):
    page.get("#sketch input[type=file]").send_keys(str(upload))
    page.until("document.querySelector('#sketch canvas')")
    page.set("#generate-n", 1)
    page.set("#generate-steps", 2)
    page.get("#generate [data-start]").click()
    page.until("document.querySelector('.command')")
    assert "--control picture.png" in page.get(".command code").text
    url = page.script("return document.querySelector('.picture img').src")
    (settings,) = re.findall(rb'{"task".*?}', base64.b64decode(url.partition(",")[2]))
    kept = json.loads(settings)["control"].partition(",")[2]
    sent, given = (
        np.asarray(Image.open(file)) for file in (io.BytesIO(base64.b64decode(kept)), upload)
    )
    assert np.array_equal(sent, given)


def copy(page: Page, content: bytes, text: str = "") -> None:
    """Put a picture on the clipboard, with a text beside it if there is one."""
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    problem = page.driver.execute_async_script(
        """const [encoded, text, done] = arguments;
        const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
        const kept = { "image/png": new Blob([bytes], { type: "image/png" }) };
        if (text) kept["text/plain"] = new Blob([text], { type: "text/plain" });
        const written = navigator.clipboard.write([new ClipboardItem(kept)]);
        written.then(() => done(""), (error) => done(`${error}`));""",
        base64.b64encode(content).decode(),
        text,
    )
    assert problem == ""


def paste(page: Page) -> None:
    keys = ActionChains(page.driver)
    keys.key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()


def test_a_picture_that_is_pasted_goes_where_it_is_seen(page, upload):
    page.choose_model(digits_of(page))
    page.get("#tab-edit").click()
    copy(page, upload.read_bytes())
    paste(page)
    shown = "document.querySelectorAll('[data-chooser=edit-image] .chosen img').length"
    page.until(f"{shown} === 1")
    # What has the focus comes first, and no other tab has taken it.
    page.script("document.querySelector('#edit [name=mode][value=between]').click()")
    page.script("document.querySelector('#edit-other').focus()")
    paste(page)
    page.until("document.querySelectorAll('[data-chooser=edit-other] .chosen img').length === 1")
    assert len(page.all(".chosen img")) == 2
    page.get("#tab-evaluate").click()
    for count in (1, 2):
        paste(page)
        page.until(f"document.querySelectorAll('#evaluate .chosen img').length === {count}")
    assert len(page.all(".chosen img")) == 4


def test_a_text_with_a_picture_is_pasted_into_a_prompt(page, upload):
    copy(page, upload.read_bytes(), "red cat")
    page.get("#generate-prompt").click()
    paste(page)
    page.until("document.querySelector('#generate-prompt').value === 'red cat'")
    assert not dark(page)


def test_a_picture_that_is_pasted_is_the_sketch(page, tmp_path):
    half = Image.new("L", (16, 16), 255)
    half.paste(0, (0, 0, 8, 16))
    half.save(tmp_path / "half.png")
    copy(page, (tmp_path / "half.png").read_bytes())
    paste(page)
    end = time.monotonic() + 30
    while not dark(page):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_wide_picture_as_the_sketch_is_shown_as_it_is_cut(page, tmp_path):
    """In the middle, as the server cuts it, where a sixth of the picture is half of the sketch."""
    wide = Image.new("L", (48, 16), 255)
    wide.paste(0, (20, 0, 28, 16))
    wide.save(tmp_path / "wide.png")
    page.get("#sketch input[type=file]").send_keys(str(tmp_path / "wide.png"))
    end = time.monotonic() + 30
    while not dark(page):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert dark(page) == pytest.approx(512**2 / 2, rel=0.1)


@pytest.mark.parametrize(
    ("spent", "words"),
    [(9.94, "9.9 s"), (99.4, "99 s"), (99.6, "1 min 40 s"), (119.7, "2 min 0 s")],
)
def test_a_time_has_no_sixty_seconds(page, spent, words):
    shown = page.driver.execute_async_script(
        "const [spent, done] = arguments;"
        "import('/static/dom.js').then(({ seconds }) => done(seconds(spent)))",
        spent,
    )
    assert shown == words


def test_a_seed_is_shown_whole(page):
    page.set("#generate-seed", "888888888")  # as long as those that the page draws
    hidden = page.script(
        "const e = document.querySelector('#generate-seed'); return e.scrollWidth - e.clientWidth"
    )
    assert hidden <= 0


def test_nothing_is_wider_than_a_phone(page, upload):
    """A row of frames goes on in the next line."""
    page.choose_model(digits_of(page))
    page.show("edit")
    page.script("document.querySelector('#edit input[value=between]').click()")
    for field in ("#edit-image", "#edit-other"):
        page.get(field).send_keys(str(upload))
    page.set("#edit-steps", 2)
    page.start("edit", "document.querySelector('#edit .command')")
    page.resize(390, 844)
    try:
        for tab in ("generate", "edit", "evaluate", "process", "compare"):
            page.show(tab)
            over = page.script(
                "const { scrollWidth, clientWidth } = document.documentElement;"
                "return scrollWidth - clientWidth"
            )
            assert over == 0, tab
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def with_settings(text: str) -> bytes:
    """A PNG with a text where those that are drawn here hold their settings."""
    notes, buffer = PngInfo(), io.BytesIO()
    notes.add_text("nelbo", text)
    Image.new("L", (4, 4)).save(buffer, format="PNG", pnginfo=notes)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "a.png is no picture that this browser can read"),
        (with_settings('{"control": 3}'), "a.png cannot be read, or its settings are damaged"),
        (with_settings('{"control": "data:image/png;base64,AAAA"}'), "Its sketch cannot be read"),
    ],
    ids=["text", "damaged settings", "damaged sketch"],
)
def test_files_that_nothing_can_be_made_of_are_answered(page, content, message):
    drop(page, content)
    page.until(f"document.querySelector('#toasts').textContent.includes('{message}')")


@pytest.mark.parametrize("text", ["3", "null", '"red"', "{"])
def test_settings_that_are_no_object_are_none(page, text):
    """The file is then a picture as any other: a sketch."""
    drop(page, with_settings(text))
    end = time.monotonic() + 30
    while not dark(page):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_cannot_be_opened_leaves_the_model_before(page):
    page.script(
        "const s = document.querySelector('#model'); s.value = 'gone';"
        "s.dispatchEvent(new Event('change'))"
    )
    page.until("document.querySelector('#opening.failed')")
    assert "gone cannot be opened: No directory /nowhere/gone" in page.get("#opening").text
    assert page.script("return document.querySelector('#model').value") == "controlled"


def test_where_no_model_is_served_there_are_comparisons_alone(browser):
    studio = Studio({}, lambda: torch.device("cpu"), comparisons={"all": list}, preload=False)
    with in_thread(studio) as address:
        browser.driver.get(address)
        browser.until("document.documentElement.dataset.ready")
        shown = "[...document.querySelectorAll('[role=tab]')].filter((tab) => tab.offsetParent)"
        assert browser.script(f"return {shown}.map((tab) => tab.textContent)") == ["Compare"]
        assert not browser.get("#compare").get_attribute("hidden")
        assert not browser.get("#about").is_displayed()


def test_a_model_without_a_chain_has_bits_alone(page, upload):
    page.choose_model("ppca")
    for tab in ("edit", "process"):
        page.show(tab)
        assert not page.get(f"#{tab} [data-start]").is_enabled()
        assert "has no chain of levels" in page.get(f"#{tab} [data-message]").text
    page.show("evaluate")
    page.get("#evaluate-image").send_keys(str(upload))
    page.start("evaluate", "document.querySelector('.card.final')")
    page.until("document.querySelector('#evaluate [data-stop]').hidden")
    assert page.get(".headline .number span").text == "bits/dim, without Monte Carlo error"
    # No bar of the sizes is cut: that of the largest is longest, by as much as it is larger.
    sizes = page.script(
        "return [...document.querySelectorAll('.sizes div')].map((row) => [row.querySelector('i')"
        ".getBoundingClientRect().width, Number(row.textContent.replace(',', ''))])"
    )
    shares = [width / size for width, size in sizes]
    assert max(shares) < 1.02 * min(shares)


def test_by_keyboard_alone(page):
    keys = ActionChains(page.driver)
    for _ in range(12):
        keys.send_keys(Keys.TAB).perform()
        focused = page.driver.switch_to.active_element.get_attribute("id")
        if focused == "tab-generate":
            keys.send_keys(Keys.ARROW_RIGHT).perform()
            assert page.get("#edit").is_displayed()
            keys.send_keys(Keys.ARROW_LEFT).perform()
        if focused == "generate-prompt":
            break
    assert focused == "generate-prompt"
    page.set("#generate-n", 1)
    page.set("#generate-steps", 2)
    keys.send_keys("cat").perform()
    keys.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.until("document.querySelector('.command')")
    unnamed = page.script(
        """const kinds = 'button, input, select, textarea, canvas[tabindex]';
        return [...document.querySelectorAll(kinds)]
        .filter((e) => e.offsetParent && !e.labels?.length && !e.textContent.trim()
          && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby'))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_cancel(page):
    page.set("#generate-n", 16)
    page.set("#generate-steps", 100)
    page.get("#generate [data-start]").click()
    page.until("document.querySelector('.picture img[src]')")
    page.get("#generate [data-stop]").click()
    page.until("document.querySelector('#toasts').textContent.includes('Cancelled')")
    page.until("!document.querySelector('#generate [data-start]').hidden")
    page.set("#generate-n", 1)
    page.set("#generate-steps", 1)
    page.get("#generate [data-start]").click()
    page.until("document.querySelector('.command')")


def test_evaluate_an_upload_then_send_a_broken_file(page, upload, tmp_path):
    page.choose_model(digits_of(page))
    page.get("#tab-evaluate").click()
    page.get("#evaluate-image").send_keys(str(upload))
    # A network with random weights has noisy terms.
    page.script("document.querySelector('#evaluate-error').add(new Option('1', '1', true, true))")
    page.get("#evaluate [data-start]").click()
    page.until("document.querySelector('.card.final .heat canvas')")
    assert "± 0." in page.get(".number").text
    assert page.get(".headline .whose").text == f"{digits_of(page)}, without a condition"
    assert len(page.all(".terms dt")) == 3
    assert len(page.all(".chart .column")) > 3
    assert "PNG" in page.get(".sizes").text
    page.get(".chosen button").click()
    broken = tmp_path / "broken.png"
    broken.write_bytes(upload.read_bytes()[:40])
    page.get("#evaluate-image").send_keys(str(broken))
    # The archive of the first picture comes last; until then there is a button to cancel instead.
    page.until("!document.querySelector('#evaluate [data-start]').hidden")
    page.get("#evaluate [data-start]").click()
    page.until("!document.querySelector('#evaluate [data-message]').hidden")
    assert "broken.png" in page.get("#evaluate [data-message]").text


def test_move_along_the_chain(page, upload):
    page.choose_model(digits_of(page))
    page.get("#tab-process").click()
    page.get("#process-image").send_keys(str(upload))
    page.get("#process [data-start]").click()
    page.until("document.querySelector('.curve-box svg')")
    shown = "return document.querySelector('.view canvas').toDataURL()"
    first, level = page.script(shown), page.get(".level").text
    page.get("#level").send_keys(*[Keys.ARROW_RIGHT] * 9)
    assert page.script(shown) != first
    assert page.get(".level").text != level
    assert "t = 10 of 20" in page.get(".level").text
    symbol = page.all(".view b")[2]
    assert symbol.text.replace("\n", "") == "E[xt−1]"
    assert page.script("return arguments[0].querySelector('sub').textContent", symbol) == "t−1"
    delay = page.script(
        """const slider = document.querySelector('#level'); const begun = performance.now();
        for (let i = 0; i < 20; i++) {
          slider.value = i; slider.dispatchEvent(new Event('input', { bubbles: true }));
        }
        return (performance.now() - begun) / 20"""
    )
    assert delay < 50
