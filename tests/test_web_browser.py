"""A real browser walks every tab on the built-in model: clicks, types, drags, sends, cancels.

No console error, no request to another host, no serious accessibility fault, nothing wider than a phone.
"""

import re
import signal
from pathlib import Path

import pytest
from PIL import Image

from browser_helpers import IN_BROWSER, Page, Server, axe, served
from headwise.web.security import Rules
from helpers import wait

pytestmark = IN_BROWSER

TOKEN = "correct-horse-battery"
TABS = ("explore", "generate", "edit", "compose", "weaken", "runs")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("served"))
    yield made
    made.stop()


@pytest.fixture
def page(browser, server):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made = Page(context, server.address)
    made.says("#model", "is ready")
    yield made
    made.check()
    context.close()


def test_explore_in_both_directions(page):
    tab = page.tab
    tab.wait_for_selector("#stage-words button")
    cell = {"x": 250, "y": 20 + 16 * 5 + 8}
    tab.hover("#map", position=cell)
    assert re.match(r"\w.* × head \d+: -?\d", tab.inner_text("#map-cell"))
    assert "Measured by effect" in tab.inner_text("#map-kind")
    tab.click("#map", position=cell)
    title = tab.inner_text("#detail h3")
    assert re.fullmatch(r"The concepts of head \d+", title)
    assert "attn2[" in tab.inner_text("#detail .address")
    head = title.split()[-1]
    tab.wait_for_selector(f"#stage-words[aria-label^='Attention of head {head}']")
    tab.click("#detail .bars button >> nth=0")
    concept = tab.inner_text("#detail h3").removeprefix("The heads of ")
    assert concept in tab.inner_text("#map-concept")
    tab.click("#detail .bars button >> nth=0")
    assert tab.inner_text("#detail h3").startswith("The concepts of head")
    tab.select_option("#map-concept", label="Color")
    assert tab.inner_text("#detail h3") == "The heads of Color"
    tab.fill("#map-head", "7")
    tab.press("#map-head", "Tab")
    assert tab.inner_text("#detail h3") == "The concepts of head 7"


def test_explore_a_region_by_drag_and_by_keyboard(page):
    tab = page.tab
    tab.fill("#explore-form [name=prompt]", "a striped shirt <b>on</b> a rainy day")
    tab.fill("#explore-form [name=seed]", "2")
    before = page.source("#stage-picture")
    tab.press("#explore-form [name=seed]", "Enter")
    page.changes("#stage-picture", before)
    tab.wait_for_selector("#stage-words button:has-text('rainy')")
    assert (
        "<b>on</b>" in tab.get_attribute("#stage-picture", "alt") and tab.locator("#explore b").count() == 0
    )
    tab.locator("#stage").scroll_into_view_if_needed()
    box = tab.locator("#stage").bounding_box()
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
    tab.mouse.up()
    tab.wait_for_selector("text=What drives this region")
    assert "From 30 to 70 % across, 30 to 80 % down." in tab.inner_text("#detail")
    assert tab.locator("#detail .bars >> nth=0").inner_text().count("×") >= 6
    tab.focus("#stage")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "-", "Enter"):
        tab.keyboard.press(key)
    page.until("() => !document.querySelector('#detail').textContent.includes('30 to 70')")
    assert "AttentionMaps" in page.recipe("#explore-recipe", "python")
    tab.keyboard.press("Escape")


def test_the_map_by_keyboard(page):
    tab = page.tab
    tab.focus("#map")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert re.search(r"× head 3: ", tab.inner_text("#map-cell"))
    tab.keyboard.press("Enter")
    assert tab.inner_text("#detail h3") == "The concepts of head 3"
    tab.focus("#tab-explore")
    for name in ("generate", "edit", "compose"):
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate("document.activeElement.id") == f"tab-{name}"
        assert tab.is_visible(f"#{name}")
    tab.keyboard.press("Home")
    assert tab.is_visible("#explore") and not tab.is_visible("#compose")


def test_generate_drags_a_strength(page):
    tab = page.tab
    page.open("generate")
    tab.fill("#generate-form [name=num_inference_steps]", "4")
    tab.fill("#generate-form [name=prompt]", "a lavender vase")
    tab.click("#generate-words button:has-text('lavender')")
    tab.evaluate("document.querySelector('#generate-form [name=prompt]').dispatchEvent(new Event('input'))")
    page.count("#generate-pair img", 2)  # though the prompt is read again meanwhile
    assert tab.locator("#generate-form [name=concept]").input_value() == "Plants"
    tab.wait_for_selector(".suggestions button")
    after = "#generate-pair figure:nth-child(2) img"
    before = page.source(after)
    slider = tab.locator("#generate-form [name=strength]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2, steps=8)
    tab.mouse.up()
    strength = float(tab.inner_text("#generate-strength"))
    page.says("#generate-pair", f"× {strength:g}")
    assert 1 < strength <= 2 and page.source(after) != before
    assert "−1 takes “lavender” away" in tab.inner_text("#generate-hint")
    tab.check("#generate-form [value=adjust]")
    assert "is listed under Plants" in tab.inner_text("#generate-hint")
    assert tab.locator("#generate-form [name=away]").input_value() == "Plants"
    page.says("#generate-pair", "not Plants")
    tab.click("#generate-strip-button")
    page.count("#generate-strip img", 5)
    tab.click("#generate-strip button:has-text('× 2')")
    assert tab.inner_text("#generate-strength") == "2.0"
    page.says("#generate-pair", "× 2")
    command = page.recipe("#generate-actions button >> nth=0", "command")
    assert "--adjust 'lavender:Color-Plants*2'" in command
    with tab.expect_download() as saved:
        tab.click("#recipe [data-save=recipe-python]")
    program = Path(saved.value.path()).read_text()
    assert "hw.contrast(relevance, 'lavender', 'Color', 'Plants', 2.0)" in program
    assert "hw.Relevance.load(emoji.MODELS['emoji'].effect)" in program and "--relevance effect" in command
    tab.keyboard.press("Escape")
    tab.select_option("#relevance", label="built in, by votes")
    page.until("() => document.querySelector('#generate-form [name=strength]').max === '4'")
    before = page.source(after)
    tab.click("#generate-form button.main")
    page.changes(after, before)
    tab.wait_for_selector("#status", state="hidden")
    program = page.recipe("#generate-actions button >> nth=0", "python")
    assert "hw.adjust(" in program and "emoji.MODELS['emoji'].relevance" in program
    tab.keyboard.press("Escape")
    tab.fill("#generate-actions input", "kept-<b>")
    tab.click("text=Keep in runs")
    tab.wait_for_selector("#generate .problem:has-text('name: expected up to 80 letters')")
    page.forgive(422)
    tab.fill("#generate-actions input", "kept here")
    tab.click("text=Keep in runs")
    tab.wait_for_selector("text=Kept as kept here")


def test_what_a_closed_tab_asked_for_is_there_when_it_is_opened_again(page, server):
    tab = page.tab
    page.open("generate")
    tab.fill("#generate-form [name=num_inference_steps]", "100")
    tab.fill("#generate-form [name=prompt]", "a red guitar")
    tab.click("#generate-words button:has-text('red')")
    tab.wait_for_selector("#status:not([hidden])")
    again = Page(tab.context, f"{server.address}#/generate")
    tab.close()
    again.count("#generate-pair img", 2)
    assert again.tab.input_value("#generate-form [name=prompt]") == "a red guitar"
    assert again.tab.get_attribute("#generate-words [aria-checked=true]", "title").startswith("token")
    again.check()


def test_edit_a_drawn_and_a_sent_picture(page, tmp_path):
    tab = page.tab
    page.open("edit")
    tab.fill("#edit-form [name=num_inference_steps]", "4")
    tab.wait_for_selector("#edit-words select[data-word=blue]")
    assert tab.locator("#edit-words select").input_value() == "Color"
    for baseline in ("plug-and-play", "free-prompt"):
        tab.uncheck(f"#edit-baselines [value={baseline}]")
    tab.click("#edit-form button.main")
    page.count("#edit-pictures img", 5)
    captions = tab.locator("#edit-pictures figcaption").all_inner_texts()
    assert captions == ["source", "by relevance × 1", "prompt-to-prompt", "MasaCtrl", "SDEdit"]
    tab.wait_for_selector("#edit-actions button")
    tab.check("#edit-form [value=picture]")
    (tmp_path / "none <i>.png").write_bytes(b"no image")
    tab.set_input_files("#edit-file", tmp_path / "none <i>.png")
    tab.wait_for_selector("#edit .problem:has-text('it is not an image')")
    (tmp_path / "large.png").write_bytes(b"x" * (21 * 2**20))
    tab.set_input_files("#edit-file", tmp_path / "large.png")
    tab.wait_for_selector("#edit .problem:has-text('expected at most 20 MB')")
    page.forgive(422)
    Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 30).convert("RGB").save(tmp_path / "mine.png")
    tab.set_input_files("#edit-file", tmp_path / "mine.png")
    tab.wait_for_selector("text=mine.png is uploaded, cropped to 64 × 64.")
    tab.click("#edit-form button.main")
    page.says("#edit-note", "dB")
    page.count("#edit-pictures img", 5)
    tab.fill("#edit-form [name=target]", "two bears")
    tab.wait_for_selector("#edit .problem:has-text('no word in common')")


def test_compose(page):
    tab = page.tab
    page.open("compose")
    tab.fill("#compose-form [name=num_inference_steps]", "3")
    tab.wait_for_selector("#compose-concepts select[data-word=cat]")
    pressed = tab.locator("#compose-words [aria-pressed=true]").all_inner_texts()
    assert [text.split()[0] for text in pressed] == ["cat", "dog"]
    tab.click("#compose-form button.main")
    page.count("#compose-pictures img", 4)
    tab.click("#compose-words button:has-text('dog')")
    assert tab.locator("#compose-concepts select").count() == 1


def test_a_finished_weakening_is_there_before_anything_is_run(page):
    tab = page.tab
    page.open("weaken")
    tab.wait_for_selector("#weaken-chart svg")
    assert tab.inner_text("#weaken-title") == "An example: Color"
    assert "is not one of yours" in tab.inner_text("#weaken-example")
    page.count("#weaken-pictures img", 4)
    first = page.source("#weaken-pictures img")
    assert first.startswith("/api/example/")
    tab.focus("#weaken-k")
    tab.keyboard.press("Home")
    assert page.source("#weaken-pictures img") != first
    page.until("() => document.querySelector('#weaken-pictures img').naturalWidth === 64")
    by_effect = tab.inner_text("#weaken-areas")
    tab.select_option("#relevance", label="built in, by votes")
    page.until("(before) => document.querySelector('#weaken-areas').innerText !== before[0]", by_effect)


def test_weaken_slides_over_k_with_pictures_and_curve(page):
    tab = page.tab
    page.open("weaken")
    tab.wait_for_selector("#weaken-form option[value=Color]", state="attached")
    tab.click("#weaken-areas button:has-text('Color')")  # which the model's card has
    assert tab.input_value("#weaken-form [name=concept]") == "Color"
    tab.fill("#weaken-form [name=count]", "1")
    tab.fill("#weaken-form [name=num_inference_steps]", "2")
    tab.click("#weaken-form button.main")
    tab.wait_for_selector("#weaken-live progress")
    tab.wait_for_selector("#weaken-title:has-text('weaken-color-')")
    assert not tab.is_visible("#weaken-example")
    first = page.source("#weaken-pictures img")
    tab.focus("#weaken-k")
    tab.keyboard.press("ArrowRight")
    assert page.source("#weaken-pictures img") != first
    assert re.fullmatch(r"\d+ of 96", tab.inner_text("#weaken-k-said"))
    tab.check("#weaken-orders [value='least relevant']")
    assert "least%20relevant" in page.source("#weaken-pictures img")
    tab.click("#weaken-result summary")
    assert tab.locator("#weaken-table tbody tr").count() >= 5


# A list of runs that comes while one of them is deleted already and the page does not know it.
SLOW_LIST = """() => {
  const asked = window.fetch;
  window.fetch = async (path, given) => {
    const answer = await asked(path, given);
    const late = given?.method === "DELETE" ? 800 : path === "/api/runs" ? 400 : 0;
    await new Promise((wake) => setTimeout(wake, late));
    return answer;
  };
}"""


def test_a_measurement_is_watched_cancelled_resumed_reported_and_deleted(page, browser, server):
    tab = page.tab
    page.open("runs")
    tab.click("#measure-card summary")
    for by, images in (("effect", "Images of each concept"), ("votes", "Images")):
        tab.select_option("#measure-form [name=by]", by)
        assert tab.inner_text("#measure-pictures") == images
    tab.fill("#measure-form [name=name]", "watched")
    tab.fill("#measure-form [name=pictures]", "120")
    tab.fill("#measure-form [name=num_inference_steps]", "2")
    tab.fill("#measure-form [name=batch_size]", "2")
    tab.click("#measure-form button.main")
    row = "#runs-list li:has-text('watched')"
    tab.wait_for_selector(f"{row} .state.running")
    tab.click("#status-cancel")
    tab.wait_for_selector(f"{row} .state.unfinished, {row} .state.finished")
    stranger = Page(browser.new_context(), f"{server.address}#/runs")
    stranger.tab.wait_for_selector(row)
    assert stranger.tab.locator(f"{row} button:has-text('delete')").count() == 0
    stranger.tab.context.close()
    if tab.locator(f"{row} button:has-text('resume')").count():
        tab.click(f"{row} button:has-text('resume')")
    tab.wait_for_selector(f"{row} .state.finished")
    tab.click(f"{row} button:has-text('show')")
    tab.wait_for_selector("#run-detail img")
    assert "started from this browser" in tab.inner_text("#run-detail")
    assert "headwise measure" in page.recipe(f"{row} button:has-text('recipe')", "command")
    tab.keyboard.press("Escape")
    with tab.context.expect_page() as opened:
        tab.click(f"{row} a:has-text('report')")
    opened.value.wait_for_selector("svg")
    assert "carry which concept" in opened.value.inner_text("h1")
    opened.value.close()
    tab.select_option("#relevance", "watched")
    page.open("explore")
    tab.select_option("#map-concept", label="Color")
    tab.wait_for_selector("#detail .bars")
    tab.select_option("#relevance", "")
    tab.evaluate(SLOW_LIST)
    page.open("runs")
    tab.click(f"{row} button:has-text('delete')")
    tab.wait_for_selector(row, state="detached")
    tab.wait_for_selector("#run-detail", state="hidden")
    assert tab.inner_text("#runs .problem") == ""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_everybody_can_use_it(browser, server, width, scheme):
    phone = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": 740}, color_scheme=scheme, has_touch=phone, is_mobile=phone
    )
    page = Page(context, server.address)
    tab = page.tab
    tab.wait_for_selector("#stage-words button")
    tab.click("#map", position={"x": 60, "y": 100})
    tab.select_option("#map-concept", label="Color")
    tab.click("#explain-words button >> nth=1")
    tab.click("#explain-heads button >> nth=0")
    page.count("#explain-pair img", 2)
    for name in TABS:
        page.open(name)
        if name == "generate":
            tab.fill("#generate-form [name=num_inference_steps]", "2")
            tab.click("#generate-words button:has-text('red')")
            page.count("#generate-pair img", 2)
            tab.wait_for_selector("#status", state="hidden")
        assert axe(tab) == [], name
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
    page.check()
    context.close()


@pytest.fixture
def guarded(service):
    """The page of a tiny pipeline, behind a token."""
    with served(service, Rules(token=TOKEN)) as address:
        yield address


def test_a_token_is_typed_and_kept_out_of_the_address(browser, guarded):
    context = browser.new_context()
    page = Page(context, guarded)
    tab = page.tab
    assert axe(tab) == []
    tab.fill("[name=token]", TOKEN)
    tab.click("button")
    page.until("() => document.querySelector('#map')?.width > 20")
    assert tab.url.partition("#")[0] == guarded
    page.forgive(401)
    page.check()
    context.close()


def test_a_server_that_is_killed_loses_nothing(browser, server):
    """kill -9 while it measures; the next server goes on, for the same browser, to the same votes."""
    from headwise.measuring.votes import Votes

    votes = {name: server.folder / "runs" / name / "votes.safetensors" for name in ("killed", "whole")}

    def measure(page, name):
        page.open("runs")
        if page.tab.locator("#measure-card[open]").count() == 0:
            page.tab.click("#measure-card summary")
        for field, value in {"name": name, "pictures": 12, "num_inference_steps": 2, "batch_size": 1}.items():
            page.tab.fill(f"#measure-form [name={field}]", str(value))
        page.tab.click("#measure-form button.main")

    context = browser.new_context()
    page = Page(context, server.address)
    page.says("#model", "is ready")
    measure(page, "killed")
    wait(votes["killed"].is_file)
    server.stop(signal.SIGKILL)
    page.tab.close()
    server.start()
    page = Page(context, f"{server.address}#/runs")
    row = "#runs-list li:has-text('killed')"
    page.tab.wait_for_selector(row)
    assert 0 < len(Votes.load(votes["killed"])) < 12
    page.tab.click(f"{row} button:has-text('resume')")
    page.tab.wait_for_selector(f"{row} .state.finished")
    measure(page, "whole")
    page.tab.wait_for_selector("#runs-list li:has-text('whole') .state.finished")
    assert votes["killed"].read_bytes() == votes["whole"].read_bytes()
    context.close()
