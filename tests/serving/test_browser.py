"""The page in a browser: pictures in, slider, zoom and pan, pictures out."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"width": 360, "height": 740}
Client = Any
Open = Callable[..., "Page"]

# asyncio keeps files open beneath the playwright of some Python versions.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def complaints() -> list[str]:
    """What the pages complained of; a test that expects something takes it out."""
    return []


@pytest.fixture
def opened(browser: Browser, complaints: list[str]) -> Iterator[Open]:
    """Open a server's page; whatever it complains of, or asks of another server, is a failure."""
    pages = []

    def open_page(client: Client, path: str = "", **options: Any) -> Page:
        own = f"http://localhost:{client.port}/"
        page = browser.new_page(**options)
        page.set_default_timeout(20_000)
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.extend(
                [] if request.url.startswith((own, "blob:")) else [f"asked for {request.url}"]
            ),
        )
        page.goto(own + path)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert complaints == []


def state(page: Page, number: int = 0) -> str:
    return page.locator("#pictures li").nth(number).get_attribute("data-state") or "new"


def run(page: Page, *pictures: Any) -> None:
    """Choose pictures and have them upscaled."""
    page.set_input_files("#files", list(pictures))
    page.locator("#start").click()
    page.locator("li:is([data-state=done], [data-state=failed])").nth(len(pictures) - 1).wait_for()


def named(name: str, path: Path) -> dict[str, Any]:
    """A picture by another name, as a browser hands it over."""
    return {"name": name, "mimeType": "image/png", "buffer": path.read_bytes()}


def download(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as found:
        page.locator(button).click()
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def transform(page: Page) -> tuple[float, float, float]:
    """Zoom, left and top of the picture, the same for before and after."""
    texts = page.locator(".pane img").evaluate_all("all => all.map((each) => each.style.transform)")
    assert texts[0] == texts[1]
    found = re.fullmatch(r"translate\((.+)px, (.+)px\) scale\((.+)\)", texts[0])
    assert found, texts[0]
    return float(found[3]), float(found[1]), float(found[2])


def test_a_picture_is_dropped(opened: Open, start: Any, photographs: Path) -> None:
    """It is upscaled, and what is downloaded is what the API answers to others."""
    client = start()
    page = opened(client)
    photo = photographs / "1.png"
    data = base64.b64encode(photo.read_bytes()).decode()
    page.evaluate(
        """data => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const dropped = new DataTransfer();
          dropped.items.add(new File([bytes], "holiday.png", { type: "image/png" }));
          const about = { dataTransfer: dropped, bubbles: true, cancelable: true };
          document.querySelector("#drop").dispatchEvent(new DragEvent("drop", about));
        }""",
        data,
    )
    row = page.locator("#pictures li")
    row.get_by_text("47 × 61 → 188 × 244").wait_for()
    assert row.locator(".name").inner_text() == "holiday.png"
    assert page.locator("#start").inner_text() == "Upscale 1 picture"
    page.locator("#start").click()
    page.locator("li[data-state=done]").wait_for()
    assert download(page, ".download") == ("holiday_upscaled.png", client.upscale(photo).body)
    assert page.locator("#start").is_disabled()
    page.locator("#format").select_option("jpg")  # another result is another job
    assert page.locator("#start").is_enabled()
    page.locator("#size").select_option("long_side")
    page.locator("#amount").fill("300")
    page.locator("#start").click()
    row.get_by_text("47 × 61 → 231 × 300").wait_for()
    found = download(page, ".download")
    expected = client.upscale(photo, format="jpg", quality=95, long_side=300).body
    assert found == ("holiday_upscaled.jpg", expected)


def test_before_and_after(opened: Open, start: Any, photographs: Path) -> None:
    page = opened(start())
    run(page, photographs / "0.png", photographs / "1.png")
    page.locator(".compare").first.click()
    assert page.locator("#viewed").inner_text() == "0.png"
    shown = page.locator("#after")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 4 * 64
    assert page.locator("#before").evaluate("image => image.naturalWidth") == 64
    box = page.locator("#stage").bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def divider() -> float:
        clip = page.locator("#clipped").evaluate("pane => getComputedStyle(pane).clipPath")
        at = page.locator("#divider").get_attribute("aria-valuenow")
        found = re.search(r"inset\(0px (calc\(100% - )?([\d.]+)%", clip)
        assert found, clip
        share = float(found[2]) if found[1] else 100 - float(found[2])
        assert round(share) == int(at or -1)
        return share

    # the divider, by mouse and by keyboard
    assert divider() == 50
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], middle[1], steps=3)
    page.mouse.up()
    assert divider() == pytest.approx(80, abs=0.5)
    page.locator("#divider").press("ArrowLeft")
    assert divider() == pytest.approx(78, abs=0.5)
    page.locator("#divider").press("Home")
    assert divider() == 0

    # zoom about the pointer, pan, and back
    fitted = transform(page)
    assert fitted[0] * 4 * 48 == pytest.approx(box["height"], abs=1)
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.wheel(0, -400)
    zoomed = transform(page)
    assert zoomed[0] == pytest.approx(fitted[0] * np.e, rel=0.01)
    for axis, point in ((1, 300), (2, 200)):
        before = (point - fitted[axis]) / fitted[0]
        assert (point - zoomed[axis]) / zoomed[0] == pytest.approx(before, abs=0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + 340, box["y"] + 230, steps=3)
    page.mouse.up()
    assert transform(page)[1:] == pytest.approx((zoomed[1] + 40, zoomed[2] + 30), abs=1)
    page.locator("#stage").press("ArrowRight")
    assert transform(page)[1] == pytest.approx(zoomed[1] - 20, abs=1)
    page.locator("#stage").press("1")
    assert transform(page)[0] == 1
    assert page.locator("#zoomed").inner_text() == "100 %"
    page.locator("#stage").press("0")
    assert transform(page) == pytest.approx(fitted)

    # the next one, and away
    page.locator("#next").click()
    assert page.locator("#viewed").inner_text() == "1.png"
    assert page.locator("#next").is_disabled()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_all_as_zip(opened: Open, start: Any, photographs: Path) -> None:
    client = start()
    page = opened(client)
    first, second = photographs / "0.png", photographs / "1.png"
    run(page, named("größe.png", first), named("größe.png", second), named("b.png", second))
    name, data = download(page, "#zip")
    assert name == "upscaled.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "größe_upscaled.png",
            "größe_upscaled (2).png",
            "b_upscaled.png",
        ]
        assert archive.read("größe_upscaled.png") == client.upscale(first).body
        assert archive.read("größe_upscaled (2).png") == client.upscale(second).body


def test_a_bad_picture(
    opened: Open, start: Any, photographs: Path, tmp_path: Path, complaints: list[str]
) -> None:
    """The library's line, as text whatever the name is; the others get done, and it can be tried
    again."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    page = opened(start())
    name = "<img src=x onerror=alert(1)>.png"
    run(page, named(name, bad), named("0.png", photographs / "0.png"))
    assert [state(page, number) for number in range(2)] == ["failed", "done"]
    row = page.locator("#pictures li").first
    assert row.locator(".name").inner_text() == name
    assert row.locator(".state").inner_text().startswith(f"{name}: cannot be decoded")
    assert page.locator("img[src=x]").count() == 0
    assert "1 failed" in page.locator("#summary").inner_text()
    row.locator(".again").click()
    page.locator("#start:not([disabled])").wait_for()
    assert state(page) == "failed"
    assert [line for line in complaints if "422" not in line] == []
    complaints.clear()


def test_stopping(opened: Open, start: Any, slow: Any, write_png: Any, tmp_path: Path) -> None:
    slow.free = 1
    client = start({"slow": slow})
    large = write_png(tmp_path / "large.png", np.zeros((300, 500, 3), np.uint8))
    page = opened(client)
    page.set_input_files("#files", [large, large])
    page.locator("#start").click()
    page.get_by_text("tile 1 of 4").wait_for()
    page.locator("#clear").click()
    page.locator("#start:not([disabled])").wait_for()
    assert [state(page, number) for number in range(2)] == ["new", "new"]
    slow.gate.set()
    page.locator("#start").click()
    page.locator("li[data-state=done]").nth(1).wait_for()
    page.locator(".remove").first.click()
    assert page.locator("#pictures li").count() == 1


def test_a_token(opened: Open, start: Any, complaints: list[str], photographs: Path) -> None:
    client = start(token="open sesame")
    page = opened(client, "#token=open%20sesame")
    run(page, photographs / "0.png")
    assert state(page) == "done"
    assert page.url == f"http://localhost:{client.port}/"  # not in the history
    page = opened(client)
    page.locator("#token").fill("wrong")
    page.locator("#token").press("Enter")
    page.locator("#token").wait_for()
    assert not page.locator("#work").is_visible()
    page.locator("#token").fill("open sesame")
    page.locator("#token").press("Enter")
    page.locator("#work").wait_for()
    assert [line for line in complaints if "401" not in line] == []
    complaints.clear()


def test_on_a_phone(opened: Open, start: Any, photographs: Path) -> None:
    page = opened(start(), viewport=PHONE, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    run(page, named(f"{'long ' * 30}.png", photographs / "0.png"))
    assert page.evaluate(fits)
    for button in page.locator("button:visible, a.button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 34
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
    page.locator(".compare").tap()
    before = transform(page)
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        positions = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": positions})

    send("touchStart", (100, 300), (100, 420))
    for distance in range(60, 130, 10):
        send("touchMove", (100, 360 - distance), (100, 360 + distance))
    send("touchEnd")
    assert transform(page)[0] == pytest.approx(2 * before[0], rel=0.1)
    bar = page.locator(".bar").bounding_box()
    assert bar is not None
    assert bar["height"] < 110


def test_light_and_dark(opened: Open, start: Any) -> None:
    client = start()
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    for scheme, is_light in (("light", True), ("dark", False)):
        page = opened(client, color_scheme=scheme)
        assert (min(page.evaluate(ground)) > 128) is is_light
        page.locator("#theme").click()
        assert (min(page.evaluate(ground)) > 128) is not is_light


def test_by_keyboard_alone(opened: Open, start: Any, photographs: Path) -> None:
    page = opened(start())
    page.set_input_files("#files", photographs / "0.png")

    def tab_to(selector: str) -> None:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches('{selector}')"):
                return
        pytest.fail(f"the tab key does not reach {selector}")

    tab_to("#start")
    page.keyboard.press("Enter")
    page.locator("li[data-state=done]").wait_for()
    page.evaluate("document.activeElement.blur()")
    tab_to(".compare")
    page.keyboard.press("Enter")
    page.locator("#viewer").wait_for()
    tab_to("#divider")
    page.keyboard.press("ArrowRight")
    assert page.locator("#divider").get_attribute("aria-valuenow") == "52"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('.compare')")


def test_every_control_has_a_name(opened: Open, start: Any, photographs: Path) -> None:
    page = opened(start())
    run(page, photographs / "0.png", photographs / "1.png")
    page.locator(".compare").first.click()
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, a, input, select, [role=slider], img, dialog")]
          .filter((part) => !part.hidden && !part.closest("template"))
          .filter((part) => !(part.ariaLabel || part.textContent.trim() || part.alt
            || part.labels?.length || part.getAttribute("aria-labelledby")))
          .map((part) => part.outerHTML)"""
    )
    assert unnamed == []
