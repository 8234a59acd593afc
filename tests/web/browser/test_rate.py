"""The page to rate pictures, in Chromium: the whole path, two at once, kill -9 in the middle, keys, what is forged."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from reimagen_jax import cli
from reimagen_jax.evaluation.human.store import Ratings
from reimagen_jax.web import rate
from tests.human import base_of, study_of
from tests.web.browser.conftest import complaints
from tests.web.serving import served

SCRIPT = "<img src=x onerror=document.title='run'><script>document.title='run'</script> & \"it's\""
PROMPTS = ("a cat on a mat", SCRIPT)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_of(tmp_path_factory.mktemp("base"), entities=("cat", SCRIPT.replace("/", "")))


@pytest.fixture
def study(tmp_path, base):
    return study_of(tmp_path, ("ours", "theirs"), PROMPTS, base=base)


@pytest.fixture
def ratings(study):
    with Ratings.open(study) as opened:
        yield opened


@pytest.fixture
def server(ratings):
    with served(lambda token: rate.application(ratings, token)) as running:
        yield running


def seen(driver, selector):
    """The element, once it is shown."""
    return WebDriverWait(driver, 20).until(
        lambda d: next((found for found in d.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()), None)
    )


def press(driver, *keys):
    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def begin(driver, address, name):
    driver.get(address)
    seen(driver, "#rater").clear()
    seen(driver, "#rater").send_keys(name, Keys.ENTER)


def done(driver, rated):
    """Waits until so many are stored, as the page says."""
    WebDriverWait(driver, 20).until(lambda d: d.find_element(By.ID, "done").text.startswith(f"{rated} of "))


def told(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector).text


def at(driver):
    """The element that has the keyboard, by what the page calls it."""
    found = driver.switch_to.active_element
    return found.get_attribute("id") or found.get_attribute("aria-label") or found.get_attribute("name")


def test_the_whole_path_by_mouse(browser, server, ratings):
    begin(browser, server.address, "Ann")
    seen(browser, "#prompt")
    rater = ratings.rater("Ann")
    for number, shown in enumerate(ratings.assigned(rater), 1):
        seen(browser, "#task")
        prompt = ratings.study.prompts[shown.task.prompt]
        assert told(browser, "#prompt") == prompt.text
        captions = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#references p")]
        assert captions == [each.caption for each in prompt.references] and len(captions) == 2
        images = browser.find_elements(By.CSS_SELECTOR, "#pictures img")
        assert [each.get_attribute("src").rpartition("/")[2] for each in images] == list(shown.pictures)
        for image in images:
            WebDriverWait(browser, 20).until(lambda d, i=image: i.get_property("naturalWidth") == 8)
            assert image.size["width"] > 200
            WebDriverWait(browser, 20).until(
                lambda d, i=image: i.value_of_css_property("image-rendering") == "pixelated"
            )
        for question, value in (("chosen", number % 4), ("photorealism", number % 2), ("faithfulness", 1)):
            browser.find_element(By.CSS_SELECTOR, f"[name={question}][value='{value}']").click()
        browser.find_element(By.ID, "store").click()
        done(browser, number)
        assert len(ratings) == number, "it is stored before the page says so"
        last = ratings.ratings()[-1]
        assert (last.picture, last.photorealism, last.faithfulness) == (shown.pictures[number % 4], number % 2, 1)
    assert told(browser, "#end-title") == "All done, thank you"
    assert browser.title == "Rate pictures", "no script of a caption has run"
    assert complaints(browser) == []
    assert not any(system in browser.page_source for system in ratings.study.systems)


def test_by_keys_alone_with_undo(browser, server, ratings):
    browser.get(server.address)
    seen(browser, "#rater")
    assert at(browser) == "rater"
    press(browser, "Bob", Keys.ENTER)
    seen(browser, "#prompt")
    assert at(browser) == "prompt", "screen readers begin with the prompt"
    press(browser, Keys.ENTER)
    assert "which picture is the best, whether it is photorealistic" in told(browser, "#missing")
    assert len(ratings) == 0 and at(browser) == "Picture 1 is the best"
    press(browser, "3", "s", "k", Keys.ENTER)
    done(browser, 1)
    (first,) = ratings.ratings()
    assert (first.photorealism, first.faithfulness) == (1, 0)
    assert first.picture == ratings.assigned(ratings.rater("Bob"))[0].pictures[2]
    press(browser, "u")
    done(browser, 0)
    checked = browser.find_elements(By.CSS_SELECTOR, "#task input:checked:not(#keys)")
    assert [each.get_attribute("value") for each in checked] == ["2", "1", "0"], "as it was said before"
    press(browser, "a", Keys.ENTER)
    done(browser, 1)
    assert [each.photorealism for each in ratings.ratings()] == [0]
    # Without the shortcuts: Tab and arrows, as of any form.
    seen(browser, "#prompt")
    browser.find_element(By.ID, "keys").click()
    browser.execute_script("document.getElementById('larger').focus()")
    press(browser, "a")
    press(browser, Keys.TAB, Keys.ARROW_RIGHT, Keys.TAB, Keys.SPACE, Keys.TAB, Keys.SPACE, Keys.ARROW_RIGHT, Keys.TAB)
    assert at(browser) == "store"
    press(browser, Keys.ENTER)
    done(browser, 2)
    last = ratings.ratings()[-1]
    assert (last.photorealism, last.faithfulness) == (0, 1)
    seen(browser, "#prompt")
    assert not browser.find_element(By.ID, "keys").is_selected(), "it stays as it was set"
    browser.find_element(By.ID, "keys").click()
    press(browser, "z")
    assert seen(browser, "#zoom img").size["width"] > 400
    press(browser, Keys.ESCAPE)
    assert not browser.find_element(By.ID, "zoom").is_displayed()


def test_two_raters_at_once(browser, browsers, server, ratings):
    both = [browser, browsers()]
    for driver, name in zip(both, ("Ann", "Bob"), strict=True):
        begin(driver, server.address, name)
        seen(driver, "#prompt")
    for number in range(1, 5):
        for driver, answer in zip(both, ("s", "a"), strict=True):
            seen(driver, "#prompt")
            press(driver, "1", answer, "l", Keys.ENTER)
            done(driver, number)
    said = {(each.rater, each.photorealism) for each in ratings.ratings()}
    assert said == {("Ann", 1), ("Bob", 0)} and len(ratings) == 8


def test_two_windows_of_one_rater_and_going_back(browser, server, ratings):
    driver = browser
    begin(driver, server.address, "Ann")
    seen(driver, "#prompt")
    first, address = driver.current_window_handle, server.origin
    driver.switch_to.new_window("tab")
    begin(driver, address, "ann")
    assert seen(driver, "#known-title").text == "Are you Ann?"
    seen(driver, "#go-on").click()
    seen(driver, "#prompt")
    press(driver, "1", "s", "l", Keys.ENTER)
    done(driver, 1)
    driver.switch_to.window(first)
    press(driver, "2", "a", "k", Keys.ENTER)
    done(driver, 1)
    assert "rated already" in told(driver, "#said")
    assert [(each.photorealism, each.faithfulness) for each in ratings.ratings()] == [(1, 1)]
    driver.get(f"{address}/nothing")
    driver.back()
    done(driver, 1)
    seen(driver, "#prompt")
    driver.refresh()
    seen(driver, "#prompt")
    done(driver, 1)
    driver.switch_to.window(next(each for each in driver.window_handles if each != first))
    driver.close()
    driver.switch_to.window(first)


def test_a_double_click_stores_once(browser, server, ratings):
    begin(browser, server.address, "Dee")
    seen(browser, "#prompt")
    press(browser, "1", "s", "l")
    ActionChains(browser).double_click(browser.find_element(By.ID, "store")).perform()
    done(browser, 1)
    press(browser, "u", "u")
    done(browser, 0)
    assert len(ratings) == 0


@contextmanager
def command(study, port=0):
    """`reimagen rate` in a process of its own, killed at the end: the process and its address."""
    args = [sys.executable, "-m", "reimagen_jax", "rate", "--out", str(study), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process, next(line.strip() for line in process.stdout if line.startswith("http"))
    finally:
        process.kill()
        process.communicate()


def test_kill_9_in_the_middle_and_going_on(browser, tmp_path, capsys):
    study = study_of(tmp_path, ("ours", "theirs"))
    with command(study.path) as (process, address):
        begin(browser, address, "Ann")
        for number in (1, 2):
            seen(browser, "#prompt")
            press(browser, "2", "s", "l", Keys.ENTER)
            done(browser, number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        press(browser, "2", "a", "k", Keys.ENTER)
        assert "does not answer" in seen(browser, "#wrong").text
        done(browser, 2)
        assert len(browser.find_elements(By.CSS_SELECTOR, "#task input:checked:not(#keys)")) == 3, "what was said stays"
    with command(study.path) as (_, address):
        browser.get(address)
        seen(browser, "#rater").send_keys("Ann", Keys.ENTER)
        assert "has rated 2 of 6" in seen(browser, "#known-text").text
        seen(browser, "#go-on").click()
        for number in range(3, 7):
            seen(browser, "#prompt")
            press(browser, "2", "a", "k", Keys.ENTER)
            done(browser, number)
        seen(browser, "#end-title")
    assert cli.main(["rate", "results", str(study.path)]) == 0
    assert "Ann: 6 of 6 rated" in capsys.readouterr().out
    with Ratings.open(study) as ratings:
        ratings.verify()
        assert [each.photorealism for each in ratings.ratings()] == [1, 1, 0, 0, 0, 0]


def test_a_page_of_another_origin_rates_nothing(browser, server, ratings, tmp_path):
    begin(browser, server.address, "Eve")
    seen(browser, "#prompt")
    rater = ratings.rater("Eve")
    verdict = {"rater": rater.id, "place": 0, "photorealism": 1, "faithfulness": 1}
    for origin in ("http://evil.example", "null", None):
        status, _, content = server.ask("POST", "/api/rate", verdict, {"Origin": origin})
        assert status == 403 and b"Origin" in content
    # A page of another port, in the same browser, with its cookies.
    other = tmp_path / "other"
    other.mkdir()
    with served(lambda token: rate.application(ratings, token)) as forger:
        browser.get(forger.address)
        said = browser.execute_async_script(
            "const [url, told, tell] = arguments;"
            "fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include', body: told})"
            ".then(() => tell('sent'), () => tell('refused'));",
            f"{server.origin}/api/rate",
            '{"rater": 1, "place": 0, "photorealism": 1, "faithfulness": 1}',
        )
    assert said in ("sent", "refused") and len(ratings) == 0
    assert server.ask("POST", "/api/rate", verdict)[0] == 200 and len(ratings) == 1


def test_at_400_pixels_nothing_is_wider_than_the_page(browser, server):
    driver = browser
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    begin(driver, server.address, "Fay")
    for number in range(1, 5):
        seen(driver, "#prompt")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
        press(driver, "1", "s", "l", Keys.ENTER)
        done(driver, number)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_all_controls_have_names_and_roles(browser, server):
    begin(browser, server.address, "Gil")
    seen(browser, "#prompt")
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "radio", "checkbox", "textbox", "image", "radiogroup", "progressbar")
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"] and node.get("role", {}).get("value") in roles
    ]
    assert all(name for _, name in found), found
    names = [name for _, name in found]
    assert {"Picture 1 is the best", "Rated", "Undo U", "Store Enter"} <= set(names)
    assert next(name for role, name in found if role == "radiogroup") == "Choose the best, rate that one"
    assert sum(role == "radio" for role, _ in found) == 8


def test_pictures_of_a_single_one_need_no_choice(browser, tmp_path):
    study = study_of(tmp_path, ("ours", "theirs"), ("a",), number=1)
    with Ratings.open(study) as ratings, served(lambda token: rate.application(ratings, token)) as server:
        begin(browser, server.address, "Hal")
        for number in (1, 2):
            seen(browser, "#prompt")
            assert not browser.find_element(By.ID, "shown").is_displayed(), "there are no references"
            press(browser, "s", "l", Keys.ENTER)
            done(browser, number)
        assert len(ratings) == 2
