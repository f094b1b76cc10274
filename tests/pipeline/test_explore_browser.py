"""The page of `rs-cache explore` in a headless Chromium; skipped where there is none."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.explore import write_page
from pipeline.regions import RegionsFound
from pipeline.verbs.explore import ExploreSettings
from regionspot_cache.reporting.explore_server import ExploreServer
from regionspot_cache.reporting.regions_table import region_table
from tests.pipeline.explore_world import ODD, find, labels_in, server_of, settings_of

api = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def found(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExploreSettings, RegionsFound]:
    labels = labels_in(tmp_path_factory.mktemp("labels"), finished)
    settings = settings_of(labels, finished)
    return settings, find(settings)


@pytest.fixture(scope="module")
def written(found: tuple[ExploreSettings, RegionsFound], tmp_path_factory: pytest.TempPathFactory) -> str:
    settings, regions = found
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_page(out, regions, region_table(regions.regions, regions.facts), settings)
    return out.as_uri()


@pytest.fixture
def server(found: tuple[ExploreSettings, RegionsFound], tmp_path: Path) -> Iterator[ExploreServer]:
    settings, regions = found
    with server_of(
        regions, ExploreSettings(**{**vars(settings), "serve": True, "save": tmp_path / "new.json"})
    ) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens an address in a fresh profile; afterwards nothing had gone wrong in it."""
    context, wrong, asked = browser.new_context(), [], set()

    def open_page(address: str, **options: Any) -> Any:
        page = context.new_page()
        page.set_default_timeout(20_000)
        if options:
            page.set_viewport_size(options["viewport"])
            page.emulate_media(color_scheme=options["scheme"])
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.add(request.url.split("?")[0]))
        page.goto(address)
        until(page, "window.page")
        return page

    yield open_page
    context.close()
    assert wrong == []
    assert all(url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")) for url in asked), asked


def until(page: Any, expression: str) -> None:
    """Waits for an expression to be true; the page's own policy forbids Playwright's way of waiting."""
    for _ in range(400):
        if page.evaluate(f"Boolean({expression})"):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression}: {page.text_content('#status')}")


def click_point(page: Any, row: int) -> None:
    x, y = page.evaluate(f"window.page.map.at({row})")
    page.locator("#map").click(position={"x": x, "y": y})


def test_a_point_its_picture_its_neighbours_and_a_new_name(opened: Any, server: ExploreServer) -> None:
    page = opened(server.address)
    alone = page.evaluate(  # the point that is farthest from the next one
        """() => { const {map, regions} = window.page, rows = [...Array(regions.count).keys()];
        const apart = (a) => Math.min(...rows.filter((b) => b !== a).map((b) =>
          Math.hypot(map.at(a)[0] - map.at(b)[0], map.at(a)[1] - map.at(b)[1])));
        return rows.sort((a, b) => apart(b) - apart(a))[0]; }"""
    )
    click_point(page, alone)
    assert page.text_content("#name").startswith(f"Region {alone + 1}:")
    until(page, f"document.querySelector('#picture').dataset.row === '{alone}'")
    colours = page.evaluate(
        """() => { const c = document.querySelector('#picture');
        return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size; }"""
    )
    assert colours > 20  # a photograph, not an empty canvas
    table = server.served.table
    expected = table["neighbours"][alone].as_py()["ids"]
    shown = page.locator("#neighbours button").evaluate_all("all => all.map((b) => Number(b.dataset.row))")
    assert shown == expected
    page.wait_for_selector("#attention canvas")
    assert page.locator("#attention canvas").count() == 2
    page.fill("#rename", "my <b>own</b> name")
    page.press("#rename", "Enter")
    until(page, "document.querySelector('#status').textContent.endsWith('Saved.')")
    page.keyboard.press("j")  # a key of the page, no letter of a name
    assert page.text_content("#name") != f"Region {alone + 1}: my <b>own</b> name"
    click_point(page, alone)
    page.reload()
    until(page, "window.page")
    assert page.text_content("#name") == f"Region {alone + 1}: my <b>own</b> name"
    assert "1 of" in page.text_content("#reviewed")
    saved = json.loads(server.served.reviews.path.read_text())
    [changed] = [one for one in saved["annotations"] if one.get("review")]
    assert changed["id"] == table["box_id"][alone].as_py()
    assert saved["categories"][-1]["name"] == "my <b>own</b> name"
    page.click("#undo")
    until(page, "document.querySelector('#status').textContent.includes('taken back')")
    assert json.loads(server.served.reviews.path.read_text())["reviews"] == []


def test_words_are_searched_by_the_server(opened: Any, server: ExploreServer) -> None:
    page = opened(server.address)
    page.fill("#search", "red star")
    page.press("#search", "Enter")
    until(page, "document.querySelector('#status').textContent.includes('nearest')")
    rows = page.evaluate("window.page.rows")
    similarity = page.evaluate("[...window.page.regions.similarity]")
    assert rows == sorted(rows, key=lambda row: (-similarity[row], row))
    assert page.input_value("#order") == "similarity"


def test_a_written_page_is_reviewed_by_keys_and_downloaded(opened: Any, written: str, tmp_path: Path) -> None:
    page = opened(written)
    first, second, third = page.evaluate("window.page.rows.slice(0, 3)")
    for key in "jxjajt":
        page.keyboard.press(key)
    predicted = page.evaluate(f"window.page.regions.predicted({third})")
    page.reload()
    until(page, "window.page")
    found = dict(page.evaluate("[...window.page.reviews.found]"))
    name = page.evaluate(f"window.page.regions.name({second})")
    assert found[first] == {"action": "reject", "name": None}
    assert found[second] == {"action": "accept", "name": name}
    assert found[third]["name"] == predicted
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "reviewed.json")
    coco = json.loads((tmp_path / "reviewed.json").read_text())
    ids = page.evaluate("window.page.regions.id")
    assert [one["id"] for one in coco["rejected_annotations"]] == [ids[first]]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    by_id = {one["id"]: one for one in coco["annotations"]}
    assert names[by_id[ids[third]]["category_id"]] == predicted
    assert len(by_id) == len(ids) - 1


def test_filters_and_search_of_a_written_page(opened: Any, written: str) -> None:
    page = opened(written)
    total = page.evaluate("window.page.regions.count")
    page.select_option("#show", "disagree")
    differ = page.evaluate("window.page.rows.length")
    page.select_option("#show", "agree")
    assert differ + page.evaluate("window.page.rows.length") == total
    page.click("#clear")
    page.locator("#score").fill("0.1")
    assert page.evaluate("window.page.rows.every((row) => window.page.regions.score(row) <= 0.1)")
    page.click("#clear")
    page.select_option("#class", label=ODD)
    chosen = page.evaluate(
        """() => { const { regions, rows } = window.page;
        return rows.map((row) => [regions.className(row), regions.predicted(row)]); }"""
    )
    assert chosen
    assert all(ODD in names for names in chosen)
    assert page.evaluate("window.harmed") is None
    assert ODD in page.text_content("#list")
    page.click("#clear")
    page.fill("#search", "zzz")
    page.press("#search", "Enter")
    assert page.text_content("#status") == "No name has the words zzz."
    page.fill("#search", "star")
    page.press("#search", "Enter")
    assert "names with these words" in page.text_content("#status")
    similarity = page.evaluate("[...window.page.regions.similarity]")
    assert page.evaluate("window.page.rows[0]") == similarity.index(max(similarity))


def test_a_phone_in_the_dark(opened: Any, written: str) -> None:
    page = opened(written, viewport={"width": 400, "height": 800}, scheme="dark")
    page.keyboard.press("j")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 29)"
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select')].filter((e) => e.offsetParent &&
        e.type !== 'range' && e.getBoundingClientRect().height < 24).map((e) => e.id)"""
    )
    assert small == []  # large enough for a finger


def test_the_keyboard_reaches_everything(opened: Any, written: str) -> None:
    page = opened(written)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the first region of the list
    assert page.evaluate("window.page.selected === window.page.rows[0]")
    page.locator("#map").focus()
    zoom = page.evaluate("window.page.map.zoom")
    page.keyboard.press("+")
    assert page.evaluate("window.page.map.zoom") > zoom
    assert "regions" in page.get_attribute("#map", "aria-label")
