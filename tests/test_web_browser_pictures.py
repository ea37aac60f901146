"""A browser sets up, compares and shares images of a tiny pipeline."""

import pytest
from PIL import Image

pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")

from browser_helpers import IN_BROWSER, Page, axe, served
from headwise.pictures import settings_in
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
    """Generate the image of the first tab again, and wait for it."""
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
    for name, follows in {"generate": True, "edit": True, "compose": True, "weaken": False}.items():
        page.open(name)
        assert tab.is_visible("#setup") == follows, name


def test_edits_and_compositions_follow_the_settings(page, tmp_path):
    tab = page.tab
    page.open("edit")
    tab.click("#setup summary")
    tab.fill("#setup [name=negative_prompt]", "a blue dog")
    tab.fill("#setup [name=width]", "32")
    tab.press("#setup [name=width]", "Tab")
    tab.select_option("#setup [name=scheduler]", "Euler a")
    widths = "() => [...document.querySelectorAll('#{} img')].map((image) => image.naturalWidth)"
    for name, button in (("edit", "Edit"), ("compose", "Compose")):
        page.open(name)
        tab.fill(f"#{name}-form [name=num_inference_steps]", "10" if name == "edit" else "2")
        tab.wait_for_selector("#edit-words select" if name == "edit" else "#compose-words button")
        if name == "compose":
            tab.click("#compose-words button:has-text('cat')")
        tab.click(f"#{name}-form button:has-text('{button}')")
        tab.wait_for_selector(f"#{name}-actions button")
        page.until(f"() => ({widths.replace('{}', name + '-pictures')})().every((width) => width === 32)")
        command = page.recipe(f"#{name}-actions button >> nth=0", "command")
        tab.keyboard.press("Escape")
        for part in ("--negative-prompt 'a blue dog'", "--width 32", "--scheduler 'Euler a'"):
            assert part in command
    page.open("edit")
    assert tab.inner_text("#edit-unused") == ""
    tab.check("#edit-form [value=picture]")
    unused = tab.inner_text("#edit-unused")
    assert "Width and height do not apply to your image, which is cropped to the model’s 16 × 16." in unused
    assert "The sampler Euler a acts on SDEdit alone" in unused
    Image.new("RGB", (16, 16), "purple").save(tmp_path / "mine.png")
    tab.set_input_files("#edit-file", tmp_path / "mine.png")
    tab.wait_for_selector("text=mine.png is uploaded")
    tab.click("#edit-form button.main")
    page.says("#edit-note", "dB")
    tab.wait_for_selector("#status", state="hidden")
    assert tab.inner_text("#edit .problem") == ""
    page.until(f"() => ({widths.replace('{}', 'edit-pictures')})().every((width) => width === 16)")
    assert axe(tab) == []
    tab.click("#setup-reset")
    assert tab.inner_text("#edit-unused") == ""


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


# How opaque the overlay is at most, and the most that it changes from one pixel to the next.
OVERLAY = """() => {
  const canvas = document.querySelector('#explain-picture canvas');
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  const {data, width} = copy.getImageData(0, 0, canvas.width, canvas.height);
  let [most, jump] = [0, 0];
  for (let at = 0; at < data.length; at += 4) {
    most = Math.max(most, data[at + 3]);
    if ((at / 4) % width) jump = Math.max(jump, Math.abs(data[at + 3] - data[at - 1]));
  }
  return {most, jump, sum: data.reduce((a, b) => a + b, 0)};
}"""


def set_range(page, selector, value):
    """Move a slider as its arrow keys do."""
    move = "([selector, value]) => { const slider = document.querySelector(selector); slider.value = value;"
    page.tab.evaluate(
        move + " slider.dispatchEvent(new Event('input', {bubbles: true})) }", [selector, value]
    )


def explain(page, *words):
    for word in words:
        page.tab.click(f"#explain-words button:has-text('{word}')")
    page.tab.wait_for_selector(f"#explain-heads[aria-label='Heads that carry “{words[-1]}”'] button")


def test_words_are_explained_one_over_another_by_head_layer_and_step(page):
    tab = page.tab
    tab.wait_for_selector("#explain-words button:has-text('red')")
    explain(page, "red")
    assert tab.locator("#explain-heads canvas").count() == 7
    assert "in all" in tab.inner_text("#explain-heads figcaption")
    page.says("#explain-caption", "“red” in all heads")
    one = tab.evaluate(OVERLAY)
    explain(page, "car")
    page.says("#explain-caption", "“red”, “car” in all heads")
    both = tab.evaluate(OVERLAY)
    assert both["sum"] != one["sum"]
    assert one["most"] > 150 and one["jump"] < 10  # without the steps of tiles
    set_range(page, "#explain-opacity", "0.2")
    assert tab.evaluate(OVERLAY)["most"] < one["most"] / 2
    set_range(page, "#explain-step", "1")
    assert tab.inner_text("#explain-step-shown") == "step 0"
    at_step = tab.evaluate(OVERLAY)
    set_range(page, "#explain-step", "2")
    assert tab.evaluate(OVERLAY) != at_step
    tab.click("#explain-layers button >> nth=0")
    page.says("#explain-caption", "attention of layer")
    assert tab.is_disabled("#explain-step") and axe(tab) == []
    explain_all = tab.locator("#explain-words [aria-pressed=true]")
    assert explain_all.count() == 2
    tab.click("#explain-all")
    assert explain_all.count() == 6
    page.says("#explain-caption", "“a”, “red”, “car”, “in”, “the”, “forest”")
    page.until("() => document.querySelector('#status').hidden")
    assert "['a', 'in', 'the', 'forest']" in page.recipe("#explain-recipe", "python")  # those that were new
    tab.keyboard.press("Escape")


def test_a_head_is_muted_by_keyboard_and_the_picture_compared(page):
    tab = page.tab
    tab.wait_for_selector("#explain-words button:has-text('red')")
    tab.focus("#explain-words button:has-text('red')")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#explain-heads button")
    tab.focus("#explain-heads button >> nth=0")
    head = tab.get_attribute("#explain-heads button >> nth=0", "data-head")
    tab.keyboard.press("Enter")
    page.count("#explain-pair img", 2)
    assert tab.inner_text("#explain-pair b") == f"“red” muted in head {head}"
    assert tab.get_attribute("#explain-heads button >> nth=0", "aria-pressed") == "true"
    page.says("#explain-caption", f"“red” in head {head}")
    tab.focus("#explain-pair input")
    tab.keyboard.press("Home")
    clip = "document.querySelector('#explain-pair img + img').style.clipPath"
    assert tab.evaluate(clip) == "inset(0px 0px 0px 0%)"
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(clip) == "inset(0px 0px 0px 1%)"
    assert f"[{head}], 'red', 0.0" in page.recipe("#explain-recipe", "python")
    tab.keyboard.press("Escape")
    tab.fill("#explore-form [name=prompt]", "a green apple")
    explored(page)
    tab.wait_for_selector("#explain-words button:has-text('apple')")
    assert not tab.is_visible("#explain-view")


def steer(page, word, concept, strength):
    tab = page.tab
    tab.click(f"#generate-words button:has-text('{word}')")
    tab.select_option("#generate-form [name=concept]", concept)
    set_range(page, "#generate-form [name=strength]", str(strength))


def test_several_words_and_pictures_are_enlarged_compared_downloaded_and_linked(page):
    tab = page.tab
    page.open("generate")
    tab.fill("#generate-form [name=prompt]", "a red dog")
    tab.fill("#generate-form [name=pictures]", "2")
    tab.wait_for_selector("#generate-words button:has-text('dog')")
    steer(page, "red", "Color", 2)
    page.says("#generate-pair", "after: “red” Color × 2")
    tab.click("#generate-another")
    assert tab.inner_text("#generate-others span") == "“red” Color × 2"
    steer(page, "dog", "Animals", -1)
    page.says("#generate-pair", "after: “dog” Animals × -1, “red” Color × 2")
    page.count("#generate-pair img", 4)
    tab.wait_for_selector("#status", state="hidden")
    tab.click("#generate-pair .enlarge >> nth=2")
    page.count("#viewer-place .comparison img", 2)
    shown = [page.source(f"#viewer-place img >> nth={i}") for i in (0, 1)]
    assert shown == [page.source(f"#generate-pair img >> nth={i}") for i in (2, 3)]
    assert axe(tab) == []
    with tab.expect_download() as saved:
        tab.click("#viewer-place a >> nth=1")
    assert saved.value.suggested_filename == "after-dog-animals-1-red-color-2.png"
    assert settings_in(saved.value.path())["steering"] == '["dog:Animals*-1", "red:Color*2"]'
    tab.click("#viewer-close")
    sources = [page.source(f"#generate-pair img >> nth={i}") for i in range(4)]
    tab.click("#generate-actions button:has-text('Copy link')")
    page.until("() => location.hash.includes('steering')")
    again = Page(page.tab.context, tab.url)
    again.count("#generate-pair img", 4)
    assert again.tab.input_value("#generate-form [name=prompt]") == "a red dog"
    assert again.tab.inner_text("#generate-others span") == "“red” Color × 2"
    pixels = "async (source) => [...new Uint8Array(await (await fetch(source)).arrayBuffer())]"
    for i, source in enumerate(sources):
        assert again.tab.evaluate(pixels, source) == again.tab.evaluate(
            pixels, again.source(f"#generate-pair img >> nth={i}")
        )
    again.tab.click("#generate-others button")
    again.tab.click("#generate-form button.main")
    again.says("#generate-pair", "after: “dog” Animals × -1")
    again.check()


def test_a_link_has_the_head_the_words_and_the_muted_head(page):
    tab = page.tab
    tab.wait_for_selector("#stage-words button")
    tab.fill("#explore-form [name=prompt]", "a red car & 50% <b>")
    tab.fill("#explore-form [name=seed]", "4")
    explored(page)
    tab.fill("#map-head", "3")
    tab.press("#map-head", "Enter")
    explain(page, "car", "red")
    head = tab.get_attribute("#explain-heads button >> nth=1", "data-head")
    tab.click("#explain-heads button >> nth=1")
    page.count("#explain-pair img", 2)
    tab.click("#explore-actions button:has-text('Copy link')")
    page.until("() => location.hash.includes('muted')")
    assert tab.evaluate("[...new URL(location.href).search].length") == 0  # the server is not told
    again = Page(page.tab.context, tab.url)
    again.count("#explain-pair img", 2)
    assert again.tab.input_value("#explore-form [name=prompt]") == "a red car & 50% <b>"
    assert again.tab.input_value("#explore-form [name=seed]") == "4"
    assert again.tab.inner_text("#detail h3") == "The concepts of head 3"
    assert again.tab.locator("#explain-words [aria-pressed=true]").count() == 2
    assert again.tab.inner_text("#explain-pair b") == f"“red” muted in head {head}"
    again.check()


@pytest.mark.parametrize(
    "query", ["prompt=a+dog%", "steering=nothing", "prompt=a+dog&head=1e9&words=3&loras=7"]
)
def test_a_damaged_link_breaks_nothing(page, query):
    other = Page(page.tab.context, f"{page.address}#/explore?{query}")
    other.says("#model", "is ready")
    other.tab.wait_for_selector("#stage-words button")
    other.check()


@pytest.mark.parametrize("panel", ["compose", "edit"])
def test_edits_and_compositions_are_linked_too(page, panel):
    tab = page.tab
    page.open(panel)
    prompts = (
        {"prompt": "a cat and a dog"}
        if panel == "compose"
        else {"prompt": "a red dog", "target": "a red cat"}
    )
    for name, prompt in prompts.items():
        tab.fill(f"#{panel}-form [name={name}]", prompt)
    tab.fill(f"#{panel}-form [name=num_inference_steps]", "2")
    tab.wait_for_selector("#compose-concepts select" if panel == "compose" else "#edit-words select")
    tab.click(f"#{panel}-form button.main")
    tab.click(f"#{panel}-actions button:has-text('Copy link')")
    page.until("() => location.hash.includes('?')")
    count = tab.locator(f"#{panel}-pictures img").count()
    again = Page(page.tab.context, tab.url)
    again.count(f"#{panel}-pictures img", count)
    assert count >= 3
    for name, prompt in prompts.items():
        assert again.tab.input_value(f"#{panel}-form [name={name}]") == prompt
    again.tab.wait_for_selector("#status", state="hidden")
    again.check()
