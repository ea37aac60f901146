"""A browser sets up, compares and shares pictures of a tiny pipeline."""

import pytest

pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")

from browser_helpers import IN_BROWSER, Page, axe, served
from headwise.web.security import Rules
from test_loras import lora_file

pytestmark = IN_BROWSER


@pytest.fixture
def page(browser, service, tmp_path):
    """A tab on the page of a tiny pipeline, whose server has a folder with one LoRA file."""
    service.session.loras = tmp_path / "loras"
    lora_file(tmp_path / "loras" / "ink.safetensors")
    service.session.steps = 2
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    with served(service, Rules()) as address:
        made = Page(context, address)
        made.says("#model", "is ready")
        yield made
        made.check()
        context.close()


def explored(page):
    """Generate the picture of the first tab again, and wait for it."""
    before = page.source("#stage-picture")
    page.tab.click("#explore-form button.main")
    page.changes("#stage-picture", before)


def test_settings_are_chosen_shown_used_and_given_up(page):
    tab = page.tab
    tab.wait_for_selector("#stage-words button")
    tab.click("#setup summary")
    assert axe(tab) == []
    tab.fill("#setup [name=negative_prompt]", "a blue dog")
    tab.fill("#setup [name=width]", "32")
    tab.press("#setup [name=width]", "Tab")
    assert tab.input_value("#setup [name=height]") == "16"  # the model's own
    tab.select_option("#setup [name=scheduler]", "Euler a")
    tab.fill("#setup [name=clip_skip]", "2")
    tab.click("#setup-add-button")
    tab.fill("#setup-list input", "0.5")
    tab.press("#setup-list input", "Tab")
    page.says("#setup-summary", "32 × 16, Euler a, clip skip 2, 1 LoRA, not: a blue dog")
    explored(page)
    page.until("() => document.querySelector('#stage-picture').naturalWidth === 32")
    box = tab.locator("#stage").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(2, abs=0.02)
    command = page.recipe("#explore-recipe", "command")
    tab.keyboard.press("Escape")
    for part in ("--negative-prompt 'a blue dog'", "--height 16", "--scheduler 'Euler a'", "--clip-skip 2"):
        assert part in command
    assert "ink.safetensors:0.5" in command
    tab.reload()
    page.says("#setup-summary", "32 × 16, Euler a, clip skip 2, 1 LoRA, not: a blue dog")
    tab.click("#setup summary")
    tab.click("#setup-list button")
    tab.click("#setup-reset")
    assert tab.inner_text("#setup-summary") == ""
    explored(page)
    page.until("() => document.querySelector('#stage-picture').naturalWidth === 16")
    page.open("generate")
    assert tab.is_visible("#setup")
    page.open("edit")
    assert not tab.is_visible("#setup")


def test_a_size_that_does_not_fit_is_refused_before_it_is_sent(page):
    tab = page.tab
    tab.wait_for_selector("#stage-words button")
    tab.click("#setup summary")
    tab.fill("#setup [name=width]", "30")
    tab.fill("#setup [name=height]", "32")
    tab.click("#setup summary")
    tab.click("#explore-form button.main")
    assert tab.is_visible("#setup [name=width]")
    assert tab.evaluate("document.activeElement.name") == "width"
