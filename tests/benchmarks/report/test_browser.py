"""The page in a browser: nothing is loaded, nothing complains, and the slider slides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.page import page_from_sources, write_page
from srtool.benchmarks.report.pictures import Box, Picture, Version, difference_between
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.speed.result import Bench

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"width": 360, "height": 740}

# asyncio keeps files open beneath the playwright of some Python versions.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def picture(name: str, height: int, width: int) -> Picture:
    random = np.random.default_rng(len(name))
    images = [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(4)]
    names = ("bicubic", "PyTorch", "x4.onnx", "HR")
    versions = tuple(
        Version(title, image, 28.0, 5.5) for title, image in zip(names, images, strict=True)
    )
    view = Box(0, 0, width, height)
    return Picture(
        name, versions, view, (Box(4, 4, 24, 24),), difference_between(images[1], images[2], view)
    )


@pytest.fixture(scope="module")
def address(
    bench: Bench,
    evaluation_of: Callable[..., Evaluation],
    verification: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Of a page with everything in it, names that nothing can break included."""
    row = verification.rows[0].model_copy(update={"engine": "x" * 60 + ".onnx"})
    verification = verification.model_copy(update={"rows": [*verification.rows, row]})
    sources = Sources(
        [("bench.json", bench)], [("e.json", evaluation_of())], [("p" * 70 + ".json", verification)]
    )
    shown = [picture("a.png", 96, 128), picture("b.png", 64, 48)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, page_from_sources(sources, shown, "2026-11-23T18:40:00+00:00"))
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Open the page; whatever it complains of or asks of a network fails the test."""
    complaints: list[str] = []
    pages = []

    def open_page(**options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend(_foreign(request.url)))
        page.goto(address)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def _foreign(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:")) else [f"asked for {url}"]


def colour(page: Page, property_: str) -> tuple[int, ...]:
    text = page.evaluate(f"getComputedStyle(document.body).{property_}")
    return tuple(int(value) for value in re.findall(r"\d+", text)[:3])


def clip(page: Page, number: int = 0) -> float:
    """How much of the left version is cut off, %."""
    shown = page.locator(".compare").nth(number).locator(".shot.left")
    text = shown.evaluate("shot => getComputedStyle(shot).clipPath")
    width = shown.evaluate("shot => shot.getBoundingClientRect().width")
    found = re.fullmatch(r"inset\(0(?:px)? (?:calc\()?([^)]+?)\)? 0(?:px)? 0(?:px)?\)", text)
    assert found, text
    value = found[1].removeprefix("100% - ")
    assert value.endswith(("%", "px")), text
    share = float(value.rstrip("%px"))
    share = share if value.endswith("%") else 100 * share / width
    return 100 - share if "calc" in text else share


def test_every_image_is_there(opened: Callable[..., Page]) -> None:
    page = opened()
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 2 * (4 + 1 + 4)
    assert min(widths) > 0
    assert page.evaluate("document.querySelectorAll('.plot svg').length") == 5


def test_the_slider_by_keyboard(opened: Callable[..., Page]) -> None:
    page = opened()
    assert clip(page) == pytest.approx(50)
    page.locator(".stage input").first.focus()
    page.keyboard.press("ArrowRight")
    assert clip(page) == pytest.approx(49)
    page.keyboard.press("End")
    assert clip(page) == pytest.approx(0)
    page.keyboard.press("Home")
    assert clip(page) == pytest.approx(100)
    assert clip(page, 1) == pytest.approx(50)  # of its own
    value = page.locator(".stage input").first.get_attribute("aria-valuetext")
    assert value == "0 % bicubic, the rest x4.onnx"


def test_the_slider_by_mouse(opened: Callable[..., Page]) -> None:
    page = opened()
    stage = page.locator(".stage").first
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.click(box["x"] + 0.25 * box["width"], middle)
    assert clip(page) == pytest.approx(75, abs=1.5)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], middle, steps=4)
    page.mouse.up()
    assert clip(page) == pytest.approx(20, abs=1.5)


def test_what_is_compared(opened: Callable[..., Page]) -> None:
    page = opened()
    compare = page.locator(".compare").first
    compare.locator("[data-side=right]").get_by_text("HR").click()
    assert compare.locator(".shot.right").get_attribute("data-name") == "HR"
    assert compare.locator(".tag.right").inner_text() == "HR"
    compare.locator("[data-side=left] input").first.focus()
    page.keyboard.press("ArrowRight")
    assert compare.locator(".shot.left").get_attribute("data-name") == "PyTorch"
    assert compare.locator(".shot.left, .shot.right").count() == 2


def test_light_and_dark(opened: Callable[..., Page]) -> None:
    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    for page, ground, text in ((light, 255, 60), (dark, 60, 255)):
        assert (max(colour(page, "backgroundColor")) > 128) is (ground > 128)
        assert (max(colour(page, "color")) > 128) is (text > 128)
        tick = page.locator(".plot svg text").first
        fill = tick.evaluate("text => getComputedStyle(text).fill")
        assert (int(re.findall(r"\d+", fill)[0]) > 128) is (text > 128)
        before = colour(page, "backgroundColor")
        page.locator("#theme").click()
        assert abs(colour(page, "backgroundColor")[0] - before[0]) > 128
        page.locator("#theme").click()
        assert colour(page, "backgroundColor") == before


def test_on_a_phone(opened: Callable[..., Page]) -> None:
    page = opened(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".filter(box => box.scrollWidth > box.clientWidth).length"
    )
    assert wide == 0  # each row stands as a list, and no table scrolls sideways
    cell = page.locator("td[data-title^=PSNR]").first
    title = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert "PSNR" in title
    stage = page.locator(".stage").first.bounding_box()
    assert stage is not None
    assert stage["x"] >= 0
    assert stage["x"] + stage["width"] <= PHONE["width"]


def test_without_scripts(opened: Callable[..., Page]) -> None:
    """The versions stand side by side, and nothing that does not work is shown."""
    page = opened(java_script_enabled=False, viewport=PHONE)
    first = page.locator(".compare").first
    boxes = [first.locator(".shot").nth(number).bounding_box() for number in range(2)]
    assert all(boxes)
    left, right = boxes
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert not first.locator("input").first.is_visible()
    assert not page.locator("#theme").is_visible()


def test_on_paper(opened: Callable[..., Page]) -> None:
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert min(colour(page, "backgroundColor")) > 250
    assert not page.locator("#theme").is_visible()
