"""Pages opened from disk in a browser without a network: `pytest -m browser`; requires Chromium or Chrome."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from documents import EVIL, write_hostile
from playwright.sync_api import expect, sync_playwright
from studies import picture, write_final, write_images, write_split, write_study
from synthetic_images import encoded, folder_of, scene

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.page.writing import write_report
from catsdogs.data.archive import open_images
from catsdogs.data_audit.findings import audit_images
from catsdogs.data_audit.page import write_page

pytestmark = pytest.mark.browser
LOCAL = ("file:", "data:", "blob:")
AXE = "axe-core@4.14"


def until(page, expression):
    """Wait until it is true. Playwright's wait_for_function calls eval, which the policy of the page blocks."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"still false: {expression}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "no browser found: install Chromium or Chrome, and add it to the PATH"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Report of a finished study with a final model and images."""
    folder = tmp_path_factory.mktemp("studies")
    study = write_study(folder / "night", trials=6)
    write_final(study)
    for file in (*study.glob("mobilenet*/validation.csv"), study / "best" / "predictions.csv"):
        table = pd.read_csv(file, dtype={"id": str})
        validation = table.get("split", pd.Series("validation", table.index)) == "validation"
        # Ids that need quotes on the command line.
        table["id"] = table["id"].mask(validation, "pets, mine/" + table["id"])
        write_csv(file, table)
    images = {name: picture(number) for number, name in enumerate(table.loc[validation, "id"])}
    write_images(folder / "photos", images)
    for job in study.glob("mobilenet*"):
        write_split(job, images)
    for file in (*study.glob("*/result.json"), study / "best" / "recipe.json"):
        record = read_json(file)
        record["config"]["data"] = {"train": str(folder / "photos"), "ignore": ["cat.999"]}
        write_json(file, record)
    maps = {name: [[0, 0.5], [0.2, 1]] for name in images}
    write_json(study / "best" / "class_activation.json", {"resize": "squeeze", "maps": maps})
    write_report([study], study / "report.html")
    return study / "report.html"


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    study = write_hostile(tmp_path_factory.mktemp("studies") / "a '\"<b>&amp; ${x}")
    write_report([study], study / "report.html")
    return study / "report.html"


@pytest.fixture(scope="module")
def audit_page(tmp_path_factory):
    """Page of an audit that found a duplicate, two unusual images and a corrupted one."""
    output = tmp_path_factory.mktemp("audit")
    members = {"cat.0.jpg": encoded(scene(0)), "cat.1.jpg": encoded(scene(0, 80), "PNG"), "cat.2.jpg": b"broken"}
    members |= {"dog.3.jpg": encoded(scene(3)), "dog.4.jpg": encoded(scene(4, 20))}
    folder = open_images(folder_of(output / ("long " * 20 + EVIL[:8]), members), output / "cache", 0)
    write_page(output / "audit.html", audit_images(folder.root, folder, [], None, output / "cache"), [])
    return output / "audit.html"


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """Source of axe-core, a checker of accessibility."""
    if shutil.which("npm") is None:
        pytest.skip(f"npm is missing, which fetches {AXE}")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(["npm", "install", "--prefer-offline", "--no-audit", "--prefix", folder, AXE], check=True)
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def open_page(browser):
    """Function that opens a page; fails for errors on the page, and for requests to anything outside it."""
    contexts, errors = [], []

    def open_file(file, **context):
        contexts.append(browser.new_context(offline=True, **{"viewport": {"width": 1400, "height": 900}, **context}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(LOCAL) else errors.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert errors == []


def draw_everything(page):
    """Scroll through the page and return the number of figures."""
    for top in range(0, page.evaluate("document.documentElement.scrollHeight"), 700):
        page.evaluate("top => window.scrollTo({top, behavior: 'instant'})", top)
        page.wait_for_timeout(20)
    until(page, "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))")
    return page.locator(".plot").count()


def jobs_of(page):
    return page.locator("#jobs tbody tr:not([hidden]) th .aside:last-child").all_inner_texts()


def test_figures_are_drawn_on_scrolling_and_can_be_saved(open_page, report):
    page = open_page(report, color_scheme="dark", accept_downloads=True)
    assert 0 < page.locator(".plot .main-svg").count() < page.locator(".plot").count()
    assert draw_everything(page) >= 12
    # Plotly also draws axes without data.
    marks = ".trace, .points, .heatmaplayer image, .hm, .scatterlayer, .barlayer"
    height = "plot.offsetHeight === plot.querySelector('.main-svg').clientHeight"
    for condition in (f"plot.querySelector('{marks}')", height):
        assert page.evaluate(f"[...document.querySelectorAll('.plot')].every((plot) => {condition})"), condition
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as PNG: Validation log loss of each job").click()
    assert download.value.suggested_filename == "plot-intervals.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_page_is_readable_without_scripts(open_page, report):
    page = open_page(report, java_script_enabled=False)
    expect(page.locator("h1")).to_contain_text("validation log loss")
    expect(page.locator("#jobs tbody tr")).to_have_count(4)
    expect(page.locator(".shot img").first).to_be_visible()
    expect(page.locator("figure noscript p").first).to_contain_text("requires JavaScript")
    for hidden in ("#theme", ".filters", "[data-copy]", ".shot label", ".plot"):
        expect(page.locator(hidden).first).to_be_hidden()


def test_selected_images_are_listed_to_copy(open_page, report):
    page = open_page(report, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#ignore-list")).to_be_hidden()
    names = page.locator("#errors .id").all_inner_texts()
    for index in (0, 2):
        page.locator("#errors input").nth(index).check()
    expect(page.locator("#ignore-count")).to_have_text("2 images selected, in addition to 1 already ignored.")
    override = f"""'data.ignore=[cat.999,"{names[0]}","{names[2]}"]'"""
    expect(page.locator("#ignore-list")).to_have_text(override)
    page.locator("#ignore [data-copy]").click()
    expect(page.locator("#ignore [data-copy]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == override
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#ignore-list")).to_be_hidden()
    assert page.locator("#errors input:checked").count() == 0


def test_live_page_restores_its_state(open_page, report, tmp_path, monkeypatch):
    # On a busy machine, an automatic reload would interrupt the one of this test.
    monkeypatch.setattr("catsdogs.comparison.page.writing.RELOAD_SECONDS", 600)
    study = tmp_path / "night"
    shutil.copytree(report.parent, study)
    write_report([study], study / "report.html", watching=True)
    page = open_page(study / "report.html")
    page.get_by_label("Filter").fill("light")
    page.locator("#jobs").get_by_role("button", name="Time", exact=True).click()
    page.locator("#all-errors summary").click()
    page.locator("#errors input").first.check()
    page.evaluate("window.scrollTo({top: 2500, behavior: 'instant'})")
    written = page.locator(".watching time").inner_text()
    time.sleep(1.1)
    write_report([study], study / "report.html", watching=True)
    page.reload()
    assert page.locator(".watching time").inner_text() != written
    assert page.evaluate("window.scrollY") == 2500
    expect(page.locator("#jobs tbody tr:not([hidden])")).to_have_count(2)
    expect(page.locator("#jobs th[aria-sort=ascending]")).to_have_text("Time")
    expect(page.locator("#all-errors")).to_have_attribute("open", "")
    expect(page.locator("#errors input").first).to_be_checked()


def test_leaderboard_sorts_and_filters(open_page, report):
    page = open_page(report)
    by_loss = jobs_of(page)
    assert len(set(by_loss)) == 4
    cell = page.locator("#jobs th", has=page.get_by_role("button", name="Log loss", exact=True))
    header = cell.get_by_role("button")
    expect(cell).to_have_attribute("aria-sort", "ascending")
    header.click()
    expect(cell).to_have_attribute("aria-sort", "descending")
    assert jobs_of(page) == by_loss[::-1]
    page.locator("#jobs").get_by_role("button", name="Job", exact=True).click()
    expect(cell).to_have_attribute("aria-sort", "none")
    assert jobs_of(page) == sorted(by_loss)
    shown = page.locator("#jobs tbody tr:not([hidden])")
    for words, count, text in (("NONE mild", 1, "1 of 4 jobs"), ("", 4, "4 jobs")):
        page.get_by_label("Filter").fill(words)
        expect(shown).to_have_count(count)
        expect(page.locator("#filtered")).to_have_text(text)


def pixels(page, *points):
    """Return the pixels of points of the parallel coordinates, given in data coordinates."""
    page.locator("#coordinates").scroll_into_view_if_needed()
    page.wait_for_selector("#plot-coordinates .main-svg")
    script = """(points) => {
      const plot = document.getElementById("plot-coordinates"), box = plot.getBoundingClientRect();
      const place = (axis, value) => axis._offset + axis.c2p(value), { xaxis, yaxis } = plot._fullLayout;
      return points.map(([x, y]) => [box.left + place(xaxis, x), box.top + place(yaxis, y)]);
    }"""
    return page.evaluate(script, points)


def drag(page, start, end):
    first, last = pixels(page, start, end)
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*last, steps=6)
    page.mouse.up()


def test_parallel_coordinates_highlight_and_filter_trials(open_page, report):
    page = open_page(report)
    pixels(page)
    traces = "document.getElementById('plot-coordinates').data"
    best, highlight = (f"{traces}.find((trace) => trace.name === '{name}')" for name in ("best trial", "highlight"))
    x, y = page.evaluate(f"[{best}.x, {best}.y]")
    page.mouse.move(*pixels(page, (x[1], y[1]))[0], steps=5)
    until(page, f"{highlight}.visible === true")
    assert page.evaluate(f"[{highlight}.x, {highlight}.y]") == [x, y]
    expect(page.locator("#plot-coordinates .hoverlayer")).to_contain_text(re.compile(r"trial=\d+.*log loss 0\.\d"))
    page.mouse.move(5, 5, steps=5)
    until(page, f"{highlight}.visible === false")

    message, trials = page.locator("#brushed"), pd.read_csv(report.parent / "report" / "trials.csv")
    # From the top: augmentation, label smoothing, unfreeze depth, dropout, l2, log loss; 30 layers are on the right.
    drag(page, (0.8, 3.2), (1.05, 2.9))
    deep = trials["unfreeze_depth"] == 30
    expect(message).to_have_text(f"{deep.sum()} of {len(trials)} trials.")
    visible = f"{traces}.filter((trace) => trace.visible !== false)"
    vertices = f"{visible}.flatMap((trace) => trace.x).filter((x) => x !== null).length"
    assert page.evaluate(vertices) == 6 * deep.sum()
    page.mouse.dblclick(*pixels(page, (0.5, 2.5))[0])
    expect(message).to_have_text("")
    assert page.evaluate(vertices) == 6 * len(trials)


def test_theme_is_switched_and_stored(open_page, report):
    page = open_page(report, color_scheme="dark")
    page.wait_for_selector("#plot-intervals .main-svg")
    color = "getComputedStyle(document.body).backgroundColor"
    font = "document.getElementById('plot-intervals')._fullLayout.font.color"
    dark, dark_font = page.evaluate(color), page.evaluate(font)
    page.get_by_role("button", name="Light theme").click()
    until(page, f"{font} !== '{dark_font}'")
    light = page.evaluate(color)
    assert light != dark
    page.reload()
    until(page, f"{color} === '{light}'")
    page.wait_for_selector("#plot-intervals .main-svg")
    assert page.evaluate(font) != dark_font


@pytest.mark.parametrize("width", [400, 1400])
def test_page_fits_the_window(open_page, report, hostile_report, audit_page, width):
    for file in (report, hostile_report, audit_page):
        page = open_page(file, viewport={"width": width, "height": 900}, has_touch=width == 400)
        draw_everything(page)
        wide = """[...document.querySelectorAll("main *")].filter((element) =>
          !element.closest(".table, .command-line, .plot")
          && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
        ).map((element) => element.outerHTML.slice(0, 80))"""
        assert page.evaluate(wide) == []
        # No name was executed as a script.
        assert page.evaluate("window.hacked === undefined")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # A phone shows the log loss of every job without scrolling sideways.
        for cell in page.locator("#jobs tbody .figure").all() if file == report else []:
            box = cell.bounding_box()
            assert box["x"] + box["width"] <= width - 16
        # Labels of axes are neither cut nor overlap.
        labels = """(plot) => { const box = plot.getBoundingClientRect();
          const texts = [...plot.querySelectorAll(".xtick text, .ytick text, .ytitle, .y2title, .annotation-text")]
            .map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, at]) => at.width);
          const outside = (at) => at.left < box.left - 1 || at.right > box.right + 1
            || at.top < box.top - 1 || at.bottom > box.bottom + 1;
          return texts.filter(([, at], i) => outside(at) || texts.slice(0, i).some(
            ([, a]) => a.left < at.right - 1 && at.left < a.right - 1 && a.top < at.bottom - 2 && at.top < a.bottom - 2,
          )).map(([text]) => text); }"""
        assert page.evaluate(f"[...document.querySelectorAll('.plot')].flatMap({labels})") == [] or file != report
    page = open_page(report, viewport={"width": 1000, "height": 900})
    assert (
        page.evaluate("(([a]) => a.scrollWidth - a.clientWidth)(document.querySelectorAll('#leaderboard .table'))") <= 1
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_rule_is_violated(open_page, axe, report, hostile_report, audit_page, scheme):
    for file in (report, hostile_report, audit_page):
        page = open_page(file, color_scheme=scheme)
        draw_everything(page)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.evaluate(axe)
        violations = page.evaluate("axe.run()")["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in violations] == []


def test_printing_uses_the_light_theme_and_opens_everything(open_page, report):
    page = open_page(report, color_scheme="dark")
    data = page.pdf(prefer_css_page_size=True)
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 8
    # Thumbnails of the gallery.
    assert len(re.findall(rb"/Subtype\s*/Image", data)) >= page.locator("img:not(.map)").count() > 10
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    until(page, "[...document.querySelectorAll('.plot')].every(plot => plot._fullLayout?.width <= 970)")
    light = "rgb(31, 35, 40)"  # --text in report.css
    colors = "[...new Set([...document.querySelectorAll('.plot')].map(plot => plot._fullLayout.font.color))]"
    assert page.evaluate(colors) == [light]
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    until(page, "document.getElementById('plot-intervals')._fullLayout.width > 1000")
    assert light not in page.evaluate(colors)
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in ("#theme", ".contents", ".filters", "[data-copy]", "[data-png]", ".shot label"):
        expect(page.locator(control).first).to_be_hidden()


def test_keyboard_reaches_all_controls(open_page, report):
    page = open_page(report)
    controls = "a[href], button, input, select, summary, [tabindex='0']"
    shown = f'[...document.querySelectorAll("{controls}")].filter((part) => part.checkVisibility())'
    for index in range(page.evaluate(f"{shown}.length")):
        page.keyboard.press("Tab")
        assert page.evaluate(f"{shown}.indexOf(document.activeElement)") == index
        width, style = page.evaluate(
            "(({outlineWidth, outlineStyle}) => [outlineWidth, outlineStyle])(getComputedStyle(document.activeElement))"
        )
        assert float(width.removesuffix("px")) >= 1
        assert style != "none"
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
