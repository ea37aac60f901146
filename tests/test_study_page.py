"""The rating page in a real browser: by keys, by fingers, backwards, offline, at the width of a phone."""

import re
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from headwise.study.answers import Answers
from headwise.study.order import trials_of
from helpers import PATIENCE
from study_helpers import begun, editing, polysemy, served, several

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium is installed", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def visiting(browser, folder, viewport=DESKTOP):
    """A new visitor with the link, whose console has no error and who asks no other host."""
    begun(folder)[1].close()
    with served(folder) as (address, link, _):
        context = browser.new_context(viewport=viewport, has_touch=viewport is PHONE)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        faults, hosts = [], set()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(f"{address}/s/{link}")
        yield page, faults
        context.close()
        assert hosts == {urlsplit(address).netloc}


def asked(page, number):
    """Wait for a question, counted from 1, and return its text."""
    page.get_by_text(re.compile(f"^Question {number} of")).wait_for()
    return page.locator("#question").inner_text()


def right_key(page):
    """The key that an attentive participant presses: what a check asks for, else the first."""
    wanted = re.search("choose “(.+)”", page.locator("#question").inner_text())
    labels = page.locator("#options label span").all_inner_texts()
    return str(labels.index(wanted[1]) + 1) if wanted else "1"


def answers_in(folder):
    answers = Answers(folder / "answers.sqlite")
    found = list(answers)
    answers.close()
    return found


def fits(page, viewport):
    """Nothing hangs out of the page, and what is to be touched is as large as a finger."""
    for place in page.locator("main img:visible, label:visible, button:visible, h1:visible").all():
        box = place.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= viewport["width"], place
    for place in page.locator("label:visible, button:visible").all():
        assert place.bounding_box()["height"] >= 44


def test_by_keys_alone_from_consent_to_thanks(browser, tmp_path):
    with visiting(browser, editing(tmp_path / "study", cases=2)) as (page, faults):
        page.get_by_text("Taking part is voluntary").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        for number in range(1, 11):
            asked(page, number)
            assert page.get_by_role("button", name="Next").is_disabled()
            page.keyboard.press("Enter")  # without an answer, nothing happens
            page.keyboard.press(right_key(page))
            page.keyboard.press("Enter")
        page.get_by_role("heading", name="You have finished.").wait_for()
        assert faults == []
    found = answers_in(tmp_path / "study")
    assert len(found) == 10 and all(a.answer == (a.check or a.options[0]) for a in found)
    assert all(0 <= a.seconds < 60 for a in found)


def test_arrows_choose_and_the_question_is_announced(browser, tmp_path):
    with visiting(browser, several(tmp_path / "study")) as (page, _):
        page.get_by_role("button", name="I agree").click()
        asked(page, 1)
        assert page.locator("#question:focus").count() == 1, "where a screen reader goes on"
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        assert page.get_by_role("radio", name=re.compile("Image B")).is_checked()
        assert page.get_by_role("radiogroup", name=re.compile("Which image|attention")).count() == 1


def test_back_and_reload_are_harmless(browser, tmp_path):
    with visiting(browser, editing(tmp_path / "study")) as (page, faults):
        link = page.url
        page.get_by_role("button", name="I agree").click()
        first = asked(page, 1)
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        asked(page, 2)
        page.go_back()
        assert asked(page, 1) == first
        page.get_by_text("your first answer counts").wait_for()
        assert (
            page.get_by_role("radio").nth(1).is_checked() and page.get_by_role("radio").nth(0).is_disabled()
        )
        page.keyboard.press("1")  # changes nothing
        page.get_by_role("button", name="Next").click()
        second = asked(page, 2)
        page.go_back()
        asked(page, 1)
        page.go_forward()
        assert asked(page, 2) == second
        page.reload()
        assert asked(page, 2) == second, "the address knows who one is"
        page.goto(link)
        assert asked(page, 2) == second, "and so does the browser"
        for _ in range(3):
            page.go_back()
        page.go_forward()
        assert faults == []
    (only,) = answers_in(tmp_path / "study")
    assert only.answer == only.options[1]


def test_offline_loses_nothing(browser, tmp_path):
    with visiting(browser, editing(tmp_path / "study")) as (page, _):
        page.get_by_role("button", name="I agree").click()
        asked(page, 1)
        page.keyboard.press("2")
        page.context.set_offline(True)
        page.keyboard.press("Enter")
        page.get_by_text("The server cannot be reached. Nothing is lost").wait_for()
        assert page.get_by_role("radio").nth(1).is_checked()
        page.context.set_offline(False)
        page.keyboard.press("Enter")
        asked(page, 2)
    (only,) = answers_in(tmp_path / "study")
    assert only.answer == only.options[1]


def test_two_windows_of_one_participant_do_not_quarrel(browser, tmp_path):
    with visiting(browser, editing(tmp_path / "study")) as (page, _):
        page.get_by_role("button", name="I agree").click()
        asked(page, 1)
        other = page.context.new_page()
        other.goto(page.url)
        asked(other, 1)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        asked(page, 2)
        other.keyboard.press("2")
        other.keyboard.press("Enter")
        asked(other, 2)
        other.get_by_text("Your first answer counts").wait_for()
    (only,) = answers_in(tmp_path / "study")
    assert only.answer == only.options[0]


@pytest.mark.parametrize("kind", [polysemy, editing, several])
def test_a_phone_is_wide_enough(browser, tmp_path, kind):
    with visiting(browser, kind(tmp_path / "study"), PHONE) as (page, faults):
        agree = page.get_by_role("button", name="I agree")
        agree.wait_for()  # what stood there before is gone by then
        fits(page, PHONE)
        agree.tap()
        for number in range(1, 5):
            asked(page, number)
            fits(page, PHONE)
            page.locator("#options label").nth(int(right_key(page)) - 1).tap()
            page.get_by_role("button", name="Next").tap()
        asked(page, 5)
        assert faults == []
    study = begun(tmp_path / "study")[0]
    found = answers_in(tmp_path / "study")
    assert [a.case for a in found] == [t.item.case.name for t in trials_of(study, 0)[:4]]


def test_hostile_text_is_shown_as_it_is(browser, tmp_path):
    folder = several(tmp_path / "study")
    begun(folder)[1].close()
    (folder / "answers.sqlite").unlink()
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(
        text.replace("Taking part", "<img src=x onerror=alert(1)> Taking part")
    )
    with visiting(browser, folder) as (page, faults):
        page.on("dialog", lambda dialog: faults.append("a script ran"))
        page.get_by_text("<img src=x onerror=alert(1)> Taking part").wait_for()
        page.get_by_role("button", name="I agree").click()
        seen = set()
        for number in range(1, 7):
            seen.add(asked(page, number))
            page.keyboard.press(right_key(page))
            page.keyboard.press("Enter")
        page.get_by_text("You have finished.").wait_for()
        assert any("<script>alert(1)</script>" in text for text in seen) and faults == []


def test_withdrawing_asks_twice_and_then_deletes(browser, tmp_path):
    with visiting(browser, editing(tmp_path / "study")) as (page, _):
        page.get_by_role("button", name="I agree").click()
        asked(page, 1)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        asked(page, 2)
        page.get_by_role("button", name="Withdraw").click()
        page.get_by_role("button", name="Stay").click()
        assert len(answers_in(tmp_path / "study")) == 1
        page.get_by_role("button", name="Withdraw").click()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Withdraw").click()
        page.locator("dialog").get_by_role("button", name="Delete my answers").click()
        page.get_by_text("You have withdrawn.").wait_for()
        page.reload()
        page.get_by_text("You have withdrawn. Your answers were deleted.").wait_for()
    assert answers_in(tmp_path / "study") == []


def test_a_wrong_link_says_what_to_do(browser, tmp_path):
    with visiting(browser, editing(tmp_path / "study")) as (page, _):
        address = page.url.partition("/s/")[0]
        for path in ("/", "/s/wrong"):
            page.goto(address + path)
            page.get_by_text("use the link that you were given").wait_for()
