"""The studio in Chromium: the whole path of the page, by mouse and by keyboard alone, and what strangers try."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from reimagen_jax.web.answers import MAX_UPLOAD
from tests.samples import encoded, picture
from tests.web.browser.conftest import complaints

SCRIPT = "<img src=x onerror='window.hacked=1'><script>window.hacked=2</script>"


def find(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def all_of(driver, selector):
    return driver.find_elements(By.CSS_SELECTOR, selector)


def until(driver, script, seconds=300):
    """Waits until a script says true."""
    end = time.monotonic() + seconds
    while not driver.execute_script(f"return Boolean({script})"):
        assert time.monotonic() < end, f"{script} is never true; {complaints(driver)}"
        time.sleep(0.1)


def press(driver, *keys):
    ActionChains(driver).send_keys(*keys).perform()


def chord(driver, held, key):
    ActionChains(driver).key_down(held).send_keys(key).key_up(held).perform()


def hits(driver):
    return [card.get_attribute("data-key") for card in all_of(driver, ".hit")]


def write(driver, field, text):
    """Types in place of what is there; returns when the knowledge base has answered."""
    driver.execute_script("window.answered = performance.getEntriesByType('resource').length")
    element = find(driver, field)
    element.send_keys(Keys.CONTROL, "a")
    element.send_keys(text)
    until(
        driver,
        "performance.getEntriesByType('resource').slice(window.answered).some((e) => e.name.endsWith('/api/search'))",
    )
    time.sleep(0.2)


@pytest.fixture
def opened(browser, page, studio):
    """A page that is loaded, with a prompt that finds something; nothing that the browser complains of, before or
    after."""
    browser.set_window_size(1400, 1000)
    browser.get(page.address)
    until(browser, "document.querySelectorAll('#tries button').length > 0")
    browser.execute_script("performance.setResourceTimingBufferSize(10000)")
    write(browser, "#prompt", studio.base.records.texts()[0])
    until(browser, "document.querySelectorAll('.hit').length === 2")
    complaints(browser)
    yield browser
    assert complaints(browser) == []


def draw(driver, act=lambda driver: find(driver, "#draw").click()):
    before = driver.execute_script("return document.querySelectorAll('#history li').length")
    act(driver)
    until(driver, f"document.querySelectorAll('#history li').length > {before}")
    until(driver, "document.getElementById('progress').hidden")


def test_the_whole_path(opened, page, studio, tmp_path):
    assert "token" not in opened.current_url
    first, second = hits(opened)
    find(opened, f'.hit[data-key="{second}"] [data-act=up]').click()
    until(opened, f"document.querySelector('.hit').dataset.key === '{second}'")
    assert [card.get_attribute("class") for card in all_of(opened, ".hit")] == ["hit pinned", "hit"]
    find(opened, f'.hit[data-key="{first}"] [data-act=ban]').click()
    until(opened, f"![...document.querySelectorAll('.hit')].some((card) => card.dataset.key === '{first}')")
    (tmp_path / "my cat.png").write_bytes(encoded(picture(3, (30, 30))))
    find(opened, "#own-file").send_keys(str(tmp_path / "my cat.png"))
    until(opened, "document.activeElement.dataset.act === 'caption'")
    press(opened, "a cat of mine")
    until(opened, "document.querySelector('.hit.own:not(.unused)')")
    draw(opened)
    assert len(all_of(opened, "#strip button")) == 12
    assert [each.text for each in all_of(opened, "#pair figcaption b")] == ["without neighbours", "η 0.5"]
    drawing = studio.drawings[max(studio.drawings)]
    assert drawing.hits[0]["text"] == "a cat of mine"
    assert drawing.asked.chosen.ban == (first,)

    before = studio.finder.retrievals, drawing.parts[0].pipeline.stages[0].compilations, len(studio.drawings)
    opened.execute_script("performance.clearResourceTimings()")
    slider = find(opened, "#eta")
    slider.send_keys(Keys.HOME)
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert find(opened, "#pair figure:last-child b").text == "η 0.3"
    assert find(opened, "#strip [aria-pressed=true]").text == "η 0.3"
    assert "--eta 0.3" in find(opened, "#command").text
    sent = opened.execute_script("return performance.getEntriesByType('resource').map((e) => e.initiatorType)")
    assert "fetch" not in sent
    assert (studio.finder.retrievals, drawing.parts[0].pipeline.stages[0].compilations, len(studio.drawings)) == before

    find(opened, "#reproduce").click()
    until(opened, "document.getElementById('said').textContent.includes('bit for bit')")
    name = find(opened, "#save-png").get_attribute("download")
    assert name.endswith("eta0.3-1.png")
    saved = page.ask("GET", find(opened, "#save-json").get_attribute("href").removeprefix(page.origin))
    assert name.removesuffix("png") + "json" in saved[1]["Content-Disposition"]

    find(opened, "#prompt").clear()
    find(opened, "#again").click()
    assert find(opened, "#prompt").get_attribute("value") == drawing.asked.prompt
    find(opened, "#onto").click()
    until(opened, "!document.getElementById('canvas').hidden")
    assert find(opened, "input[name=kind]:checked").get_attribute("value") == "image"
    draw(opened)
    assert [each.text for each in all_of(opened, "#pair figcaption b")] == [
        "before",
        "without neighbours",
        "after",
    ]
    opened.refresh()
    until(opened, "document.querySelectorAll('#history li').length > 1")


def shown(driver, selector):
    return [each for each in all_of(driver, selector) if each.is_displayed()]


def test_systems_are_switched_and_each_shows_what_it_can_do(opened, studio):
    def choose(label):
        Select(find(opened, "#model")).select_by_visible_text(label)
        return [each.text for each in shown(opened, ".segments span")]

    def strip():
        draw(opened)
        assert studio.drawings[max(studio.drawings)].offered.label == find(opened, "#model").get_attribute("value")
        return [each.text for each in all_of(opened, "#strip button")]

    everything = ["Draw", "Image", "Inpaint", "Vary", "Swap"]
    assert choose("decoder") == ["Draw", "Swap"]
    assert "no edits, no η" in find(opened, "#lacks-said").text
    find(opened, "#lacks-said").click()
    assert "--" not in find(opened, "#lacks-why").text, "its controls are on the page"
    assert strip() == ["without", "image 1"]
    assert [each.text for each in all_of(opened, "#pair figcaption b")] == ["without neighbours", "image 1"]
    assert shown(opened, "#slider-part, #onto") == []
    assert choose("dalle2") == [], "there is one thing to do"
    assert shown(opened, "#found, #neighbour-weight") == []
    assert strip() == ["image 1"]
    assert choose("large") == everything
    until(opened, "document.querySelectorAll('.hit').length === 2")
    assert len(strip()) == 12
    until(opened, "document.querySelector('#pair img').naturalWidth === 32")
    assert choose("tiny") == everything
    assert not shown(opened, "#lacks") and len(strip()) == 12 and shown(opened, "#slider-part, #onto")
    until(opened, "document.querySelector('#pair img').naturalWidth === 16")


def test_a_record_and_a_picture_of_ones_own_are_swapped_to(opened, studio, tmp_path):
    find(opened, "input[name=kind][value=swap] + span").click()
    _, second = hits(opened)
    find(opened, f'.hit[data-key="{second}"] [data-act=to]').click()
    (tmp_path / "my dog.png").write_bytes(encoded(picture(6, (30, 30))))
    find(opened, "#to-file").send_keys(str(tmp_path / "my dog.png"))
    until(opened, "document.activeElement.dataset.picture")
    press(opened, "a dog of mine")
    draw(opened)
    drawing = studio.drawings[max(studio.drawings)]
    assert drawing.other_hits[0]["text"] == "a dog of mine"
    assert (drawing.asked.to.own[0].caption, drawing.asked.to.pin) == ("a dog of mine", (second,))
    told = ["image", "without neighbours", "swapped"]
    assert [each.text for each in all_of(opened, "#pair figcaption b")] == told
    assert "--to-reference my-dog.png 'a dog of mine'" in find(opened, "#command").text
    for _ in range(2):
        find(opened, "#to-list button").click()
    assert all_of(opened, "#to-list li") == []
    find(opened, "#again").click()
    assert len(all_of(opened, "#to-list li")) == 2


def test_by_keyboard_alone(opened, studio):
    """No mouse: `write` has typed the prompt, all else is keys."""
    draw(opened, lambda driver: chord(driver, Keys.CONTROL, Keys.ENTER))
    opened.execute_script("document.activeElement.blur()")
    press(opened, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert find(opened, "#strip [aria-pressed=true]").text == "η 0.7"
    first, second = hits(opened)
    press(opened, "n")
    assert opened.switch_to.active_element.get_attribute("data-key") == first
    press(opened, Keys.ARROW_DOWN)
    assert opened.switch_to.active_element.get_attribute("data-key") == second
    chord(opened, Keys.ALT, Keys.ARROW_UP)
    until(opened, f"document.querySelector('.hit').dataset.key === '{second}'")
    assert opened.switch_to.active_element.get_attribute("data-key") == second, "the focus goes with it"
    press(opened, "p")
    until(opened, f"!document.querySelector('.hit[data-key=\"{second}\"]').classList.contains('pinned')")
    press(opened, "b")
    until(opened, f"![...document.querySelectorAll('.hit')].some((card) => card.dataset.key === '{second}')")
    press(opened, "/")
    assert opened.switch_to.active_element.get_attribute("id") == "prompt"
    opened.execute_script("document.activeElement.blur()")
    press(opened, "?")
    until(opened, "document.getElementById('keys').open")
    press(opened, Keys.ESCAPE)
    until(opened, "!document.getElementById('keys').open")
    draw(opened, lambda driver: press(driver, "s"))
    assert studio.drawings[max(studio.drawings)].asked.seed != 0


def test_a_mask_by_keyboard(opened, studio, tmp_path):
    (tmp_path / "room.png").write_bytes(encoded(picture(5, (32, 32))))
    find(opened, "#picture-file").send_keys(str(tmp_path / "room.png"))
    opened.execute_script("document.querySelector('input[name=kind]:checked').focus()")
    press(opened, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    until(opened, "!document.getElementById('canvas').hidden")
    opened.execute_script("document.getElementById('canvas').focus()")
    press(opened, Keys.ARROW_LEFT, Keys.ARROW_UP, " ")
    draw(opened)
    drawing = studio.drawings[max(studio.drawings)]
    assert drawing.asked.kind == "inpaint"
    assert drawing.asked.mask[15 * 32 + 15] == "1"
    assert 5 < drawing.asked.mask.count("1") < 60
    assert "mask.png" in [each.text for each in all_of(opened, "#files a")]


def test_scripts_in_texts_are_texts(opened, tmp_path):
    write(opened, "#query", SCRIPT)
    (tmp_path / "x.png").write_bytes(encoded(picture(4, (20, 20))))
    find(opened, "#own-file").send_keys(str(tmp_path / "x.png"))
    until(opened, "document.activeElement.dataset.act === 'caption'")
    press(opened, SCRIPT)
    write(opened, "#prompt", SCRIPT)
    until(opened, "document.querySelector('.hit.own:not(.unused)')")
    draw(opened)
    assert find(opened, "#result-title").text == SCRIPT
    assert SCRIPT.split("'")[0] in find(opened, "#command").text
    assert opened.execute_script("return window.hacked") is None
    refused = "const s = document.createElement('script'); s.textContent = 'window.hacked = 3'; document.body.append(s)"
    opened.execute_script(refused)
    assert opened.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in each for each in complaints(opened))


@pytest.mark.parametrize(("size", "said"), [(MAX_UPLOAD + 1, "32 MiB"), (500, "not an image")])
def test_what_is_too_large_or_no_picture_is_said(opened, tmp_path, size, said):
    (tmp_path / "file.png").write_bytes(b"x" * size)
    find(opened, "#own-file").send_keys(str(tmp_path / "file.png"))
    until(opened, f"document.getElementById('wrong').textContent.includes('{said}')")
    assert find(opened, "#wrong").get_attribute("role") == "alert"
    assert len(all_of(opened, ".hit")) == 2
    assert all("400" in each for each in complaints(opened))


def test_cancelling_ends_it_and_the_next_is_drawn(opened, studio):
    find(opened, "summary").click()
    steps, before = find(opened, "#steps"), len(studio.drawings)
    steps.clear()
    steps.send_keys("250")
    images = find(opened, "#num-images")
    images.clear()
    images.send_keys("8")
    find(opened, "#draw").click()
    until(opened, "document.getElementById('progress-said').textContent.startsWith('Step ')")
    press(opened, Keys.ESCAPE)
    until(opened, "document.getElementById('said').textContent === 'Cancelled'")
    assert len(studio.drawings) == before
    steps.clear()
    steps.send_keys("3")
    images.clear()
    images.send_keys("1")
    draw(opened)
    assert len(studio.drawings) == before + 1


def test_another_site_in_the_same_browser_can_do_nothing(opened, page, studio):
    """It is on this machine, too: the same site to a cookie, another origin to the guard."""
    forged = f"""<!doctype html><script>
      const send = (path, body) => fetch("{page.origin}" + path, {{method: "POST", body, credentials: "include",
        mode: "no-cors"}}).catch(() => 0);
      const ask = '{{"model": "tiny", "prompt": "forged", "chosen": {{"k": 0}}}}';
      Promise.all([send("/api/drawings", ask), send("/api/pictures", "x"),
        fetch("{page.origin}/api/state", {{credentials: "include"}}).then((r) => r.text()).catch(() => "refused")])
        .then((all) => {{ document.title = "done " + all[2]; }});
    </script>"""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(forged.encode())

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        before = len(studio.drawings), len(studio.pictures)
        opened.get(f"http://127.0.0.1:{other.server_address[1]}/")
        until(opened, "document.title.startsWith('done')")
        assert opened.title == "done refused"
        assert (len(studio.drawings), len(studio.pictures), studio.device.jobs) == (*before, [])
        other.shutdown()
    complaints(opened)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 400])
def test_all_is_named_and_nothing_is_wider_than_the_window(opened, width, dark):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        unnamed = """return [...document.querySelectorAll('input, select, textarea, button, a, canvas, img')].filter(
          (e) => e.checkVisibility() && !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() ||
            e.hasAttribute('alt'))).map((e) => e.outerHTML)"""
        assert opened.execute_script(unnamed) == []
        contrast = opened.execute_script("""
          const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255).map(
            (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const style = (q, name) => light(getComputedStyle(document.querySelector(q))[name]);
          const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          return ['h2', '.soft', 'label', '#draw'].map((q) => ratio(style(q, 'color'),
            q === '#draw' ? style(q, 'backgroundColor') : style('.card', 'backgroundColor')));""")
        assert min(contrast) >= 4.5
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
