"""A browser for tests: Debian's packages chromium and chromium-driver, by Selenium, without a window."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

Driver = webdriver.Chrome


def start(width: int = 1400, height: int = 1000) -> Driver:
    """A browser of its own. Fails where there is none: a page that no browser has opened is not tested."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(programs.values()), f"these tests need {programs}: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"window-size={width},{height}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Driver(options, webdriver.ChromeService(programs["chromedriver"]))
    driver.set_script_timeout(60)
    return driver


@pytest.fixture
def browsers() -> Iterator[Callable[..., Driver]]:
    """Starts browsers, each with cookies of its own, and ends them."""
    started: list[Driver] = []

    def new(**how: int) -> Driver:
        started.append(start(**how))
        return started[-1]

    yield new
    for driver in started:
        driver.quit()


@pytest.fixture(scope="module")
def browser() -> Iterator[Driver]:
    """One browser for the tests of a file."""
    driver = start()
    yield driver
    driver.quit()


def complaints(driver: Driver) -> list[str]:
    """What the browser has complained of since it was last asked: scripts that failed, what the policy has refused."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
