"""The report of `icd eval` in a browser: it sorts, filters and drags, in wide and narrow windows.

    python3 tests/report.py PROGRAM [SCREENSHOTS]

Needs Playwright's Python package and a Chromium that is installed (Debian's `chromium`); without
them it says so and passes.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sys.exit(print("skipped: playwright is not installed"))

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
LIMIT = 16


def report_of(program, folder):
    """The report of some edits of the bundled world."""
    subprocess.run(
        [program, "eval", "editing", "shapes", "--limit", str(LIMIT), "--out", folder, "--quiet"],
        check=True, stdout=subprocess.DEVNULL,
    )
    return Path(folder) / "report.html"


def column(page, table, index):
    """The values of a column of a table, as they are sorted by."""
    cells = page.locator(f"{table} tbody tr > :nth-child({index})")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.value ?? cell.textContent)")


def check_tables(page):
    heading = page.locator("#kinds thead th").nth(2)
    for direction in ("ascending", "descending"):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == direction
        values = [float(value) for value in column(page, "#kinds", 3) if not value.startswith("–")]
        assert values == sorted(values, reverse=direction == "descending"), values
    heading = page.locator("#kinds thead th").first
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    names = column(page, "#kinds", 1)
    assert names == sorted(names), names


def check_pairs(page):
    shown = page.locator(".pair:not([hidden])")
    assert shown.count() == LIMIT
    page.select_option("#sort", "psnr_unedit_part")
    values = page.locator(".pair").evaluate_all("all => all.map(one => Number(one.dataset.psnrUneditPart))")
    assert values == sorted(values), values
    page.select_option("#filter", "colour")
    kinds = set(shown.evaluate_all("all => all.map(one => one.dataset.kind)"))
    assert kinds == {"colour"} and shown.count() == LIMIT // 8
    assert page.locator("#found").inner_text() == f"{LIMIT // 8} of {LIMIT}"
    page.select_option("#filter", "")
    page.fill("#search", "no such words")
    assert shown.count() == 0
    page.fill("#search", "")
    assert shown.count() == LIMIT


def place(slider):
    """How much of the picture before is shown, in percent."""
    return float(slider.evaluate("one => one.style.getPropertyValue('--at') || '50%'").rstrip("%"))


def check_slider(page):
    slider = page.locator(".slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=8)
    page.mouse.up()
    dragged = place(slider)
    assert 70 < dragged < 90, dragged
    before = slider.locator(".before")
    assert f"{100 - dragged:g}" in before.evaluate("one => getComputedStyle(one).clipPath").replace(".0", "")
    slider.locator("input").focus()
    page.keyboard.press("ArrowLeft")
    assert place(slider) == dragged - 1
    page.keyboard.press("Home")
    assert place(slider) == 0


def check_width(page):
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than its window"


def main():
    program, screenshots = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if not BROWSER:
        return print("skipped: there is no chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        address = report_of(program, folder).as_uri()
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for width in (1280, 360):
            page = browser.new_page(viewport={"width": width, "height": 800})
            faults, requests = [], []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda line: line.type == "error" and faults.append(line.text))
            page.on("request", lambda one: one.url.startswith("http") and requests.append(one.url))
            page.goto(address)
            if screenshots:
                page.screenshot(path=screenshots / f"report-{width}.png", full_page=True)
            check_width(page)
            check_tables(page)
            check_pairs(page)
            check_slider(page)
            assert not faults and not requests, (faults, requests)
        browser.close()
    print("the report sorts, filters and drags")


if __name__ == "__main__":
    main()
