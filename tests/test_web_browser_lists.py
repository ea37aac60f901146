"""A browser sorts, filters and exports the map, finds runs by their captions, and switches the theme."""

import csv
from pathlib import Path

import numpy as np
import pytest

from browser_helpers import IN_BROWSER, Page, axe, served
from headwise.web.security import Rules
from test_web_browser_pictures import set_range

pytestmark = IN_BROWSER


@pytest.fixture
def page(browser, service):
    """A tab on the page of a tiny pipeline."""
    service.session.steps = 2
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="light")
    with served(service, Rules()) as address:
        made = Page(context, address)
        made.says("#model", "is ready")
        made.tab.wait_for_selector("#stage-words button")
        yield made
        made.check()
        context.close()


def hovered(page, line):
    """The concept on a line of the map."""
    page.tab.hover("#map-names", position={"x": 20, "y": 20 + 16 * line + 8})
    return page.tab.inner_text("#map-cell")


def test_the_map_is_sorted_filtered_and_exported(page, service):
    tab, relevance = page.tab, service.relevance("")
    assert [hovered(page, line) for line in (0, 1)] == ["Color", "Animals"]
    tab.select_option("#map-order", "name")
    assert [hovered(page, line) for line in (0, 1)] == ["Animals", "Color"]
    head = int(np.argmax(relevance.values[0] - relevance.values[1]))
    tab.select_option("#map-order", "head")
    tab.fill("#map-head", str(head))
    tab.press("#map-head", "Enter")
    assert hovered(page, 0) == "Color"
    tab.fill("#map-filter", "CAT")  # a word of animals
    assert tab.inner_text("#map-count") == "1 of 2 concepts" and hovered(page, 0) == "Animals"
    tab.click("#map-names", position={"x": 20, "y": 28})
    assert tab.inner_text("#detail h3") == "The heads of Animals"
    with tab.expect_download() as saved:
        tab.click("#map-csv")
    assert saved.value.suggested_filename == "relevance.csv"
    with Path(saved.value.path()).open(newline="") as file:
        titles, row = csv.reader(file)
    assert titles[:2] == ["concept", "split_half"] and "attn2[" in titles[2] and row[0] == "Animals"
    assert np.allclose([float(value) for value in row[2:]], relevance.values[1], atol=1e-4)
    tab.fill("#map-filter", "no such concept")
    assert tab.inner_text("#map-count") == "0 of 2 concepts"
    tab.focus("#map")
    tab.keyboard.press("Enter")


def test_the_theme_is_switched_and_remembered(page):
    tab = page.tab
    background = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(background)
    tab.select_option("#theme", "dark")
    dark = tab.evaluate(background)
    assert dark != light and axe(tab) == []
    again = Page(tab.context, page.address)
    again.says("#model", "is ready")
    assert again.tab.evaluate(background) == dark and again.tab.input_value("#theme") == "dark"
    again.tab.select_option("#theme", "system")
    assert again.tab.evaluate(background) == light
    again.check()


def test_runs_are_found_by_what_they_show(page, service):
    tab = page.tab
    page.open("generate")
    for name, prompt in (("first", "a red dog"), ("second", "a blue cat")):
        tab.fill("#generate-form [name=prompt]", prompt)
        tab.wait_for_selector(f"#generate-words button:has-text('{prompt.split()[1]}')")
        tab.click("#generate-words button >> nth=1")
        page.says("#generate-pair", prompt.split()[1])
        set_range(page, "#generate-form [name=strength]", "2")
        page.says("#generate-pair", "× 2")
        tab.fill("#generate-actions input", name)
        tab.click("text=Keep in runs")
        tab.wait_for_selector(f"text=Kept as {name}")
    page.open("runs")
    page.count("#runs-list li > img", 2)
    tab.fill("#runs-search", "BLUE")
    page.count("#runs-list li", 1)
    assert "a blue cat" in tab.inner_text("#runs-list li")
    tab.click("#runs-list button:has-text('show')")
    tab.wait_for_selector("#run-detail figcaption")
    assert tab.inner_text("#run-detail figcaption >> nth=1") == "a blue cat (001-steered)"
    tab.fill("#runs-search", "green")
    assert tab.inner_text("#runs-empty") == "No run matches."
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and axe(tab) == []
