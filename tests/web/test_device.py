"""A queue for one device: in order, a step at a time, and no further than it is wanted."""

import asyncio
import threading

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.web.studio.device import LONGEST, Device


@pytest.fixture
def device():
    made = Device()
    yield made
    made.close()


def heard(device, act, until):
    """What a page hears from before `act` to the event that `until` is true of."""

    async def listen():
        events = device.events()
        found = [await anext(events)]
        act()
        while not until(found[-1]):
            found.append(await asyncio.wait_for(anext(events), 20))
        await events.aclose()
        return found

    return asyncio.run(listen())


def test_steps_are_told_and_jobs_are_done_in_order(device):
    def work(number, tell):
        for step in range(3):
            tell(step, 2)
        return number

    def last(event):
        return event.get("job", {}).get("state") == "done" and event["job"]["title"] == "b"

    events = heard(device, lambda: [device.add(title, work) for title in "ab"], last)
    assert events[0] == {"jobs": []}
    told = [(e["job"]["title"], e["job"]["state"], e["job"]["step"]) for e in events[1:]]
    of_a = [each[1:] for each in told if each[0] == "a"]
    assert of_a == [("waiting", 0), ("running", 0), ("running", 0), ("running", 1), ("running", 2), ("done", 2)]
    assert told.index(("a", "done", 2)) < told.index(("b", "running", 0))
    assert events[-1]["job"]["result"] == 2


def test_what_runs_ends_after_its_step_and_what_waits_never_begins(device):
    at_step, go_on, begun = threading.Event(), threading.Event(), []

    def long(number, tell):
        tell(1, 9)
        at_step.set()
        go_on.wait(20)
        tell(2, 9)
        begun.append("too far")

    runs = device.add("runs", long)
    waits = device.add("waits", lambda number, tell: begun.append("waits"))
    at_step.wait(20)
    device.cancel(waits.number)
    device.cancel(runs.number)
    go_on.set()
    after = device.add("after", lambda number, tell: begun.append("after"))
    while after.state != "done":
        threading.Event().wait(0.01)
    assert (runs.state, waits.state, begun) == ("cancelled", "cancelled", ["after"])
    with pytest.raises(UserError, match="done already"):
        device.cancel(runs.number)


def test_what_fails_is_told_and_the_next_one_is_done(device, capfd):
    def bad(number, tell):
        raise UserError("two\nlines")

    def fault(number, tell):
        raise ValueError("secret")

    jobs = [device.add("bad", bad), device.add("fault", fault), device.add("good", lambda number, tell: 5)]
    while jobs[-1].state != "done":
        threading.Event().wait(0.01)
    assert [job.state for job in jobs] == ["failed", "failed", "done"]
    assert jobs[0].error == "two lines"
    assert "secret" not in jobs[1].error
    assert "ValueError: secret" in capfd.readouterr().err


def test_no_more_wait_than_can_be_seen_through(device):
    go_on = threading.Event()
    for _ in range(LONGEST + 1):
        device.add("x", lambda number, tell: go_on.wait(20))
        while device.running is None:
            threading.Event().wait(0.01)
    with pytest.raises(UserError, match="wait already"):
        device.add("x", lambda number, tell: None)
    go_on.set()
