"""What raters say is stored at once and for good: orders, undo, resuming, two processes, kill -9, other contents."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.human.store import FILE, Ratings, Verdict, shuffled
from reimagen_jax.evaluation.human.study import Study
from tests.human import PROMPTS, study_of

RIGHT, WRONG = Verdict(1, 1), Verdict(0, 0)
RATER = """
import sys
from reimagen_jax.evaluation.human.store import Ratings, Verdict
from reimagen_jax.evaluation.human.study import Study
with Ratings.open(Study.open(sys.argv[1])) as ratings:
    rater = ratings.join(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    while shown := ratings.next(rater):
        verdict = Verdict(shown.place % 2, shown.task.system % 2, shown.place % len(shown.pictures))
        assert ratings.rate(rater, shown.place, verdict)
        print(shown.place, *verdict, flush=True)
"""


def begin(study, name):
    """A process that waits to rate everything, and tells of every rating once it is stored."""
    process = subprocess.Popen(
        [sys.executable, "-c", RATER, str(study.path), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path)


@pytest.fixture
def ratings(study):
    with Ratings.open(study) as opened:
        yield opened


def rate_all(ratings, rater, verdict=RIGHT):
    while shown := ratings.next(rater):
        assert ratings.rate(rater, shown.place, verdict)


def test_everybody_is_shown_everything_once_in_an_order_of_their_own(ratings):
    orders = []
    for name in ("Ann", "Bob", "Cid"):
        shown = ratings.assigned(ratings.join(name))
        assert [each.place for each in shown] == list(range(9))
        tasks = [(each.task.prompt, each.task.system) for each in shown]
        assert sorted(tasks) == [(p, s) for p in range(3) for s in range(3)]
        for each in shown:
            assert sorted(each.pictures) == sorted(each.task.pictures)
        together = [prompt for prompt, _ in tasks]
        assert together == [p for p in dict.fromkeys(together) for _ in range(3)], "a prompt's systems stand together"
        orders.append((tasks, [each.pictures for each in shown]))
    assert orders[0] != orders[1] != orders[2]


def test_orders_are_those_of_the_seed_and_recorded(study, ratings, tmp_path):
    rater = ratings.join("Ann")
    kept = [(each.task, each.pictures) for each in ratings.assigned(rater)]
    again = shuffled(study.tasks, [study.seed, rater.id], {})
    assert kept == [(study.tasks[task], tuple(pictures)) for task, pictures in again]
    with Ratings.open(study) as opened:
        assert [(each.task, each.pictures) for each in opened.assigned(rater)] == kept
    # Over many raters every system comes first about as often: nobody can tell it by its place.
    first = [study.tasks[shuffled(study.tasks, [0, n], {})[0][0]].system for n in range(300)]
    assert all(70 < first.count(system) < 130 for system in range(3))


def test_a_rating_stands_until_it_is_taken_back(ratings):
    rater = ratings.join("Ann")
    shown = ratings.next(rater)
    assert ratings.rate(rater, shown.place, Verdict(1, 0, 2))
    assert not ratings.rate(rater, shown.place, WRONG), "a double click, or an old page"
    (only,) = ratings.ratings()
    assert (only.photorealism, only.faithfulness, only.picture) == (1, 0, shown.pictures[2])
    assert ratings.next(rater).place == 1
    last = ratings.progress(rater).last
    assert ratings.undo(rater, last)
    assert not ratings.undo(rater, last), "a double click takes back no more"
    assert ratings.ratings() == [] and ratings.progress(rater).last is None
    again = ratings.next(rater)
    assert (again.place, again.before) == (0, Verdict(1, 0, 2))
    assert ratings.rate(rater, 0, WRONG)
    assert [(each.photorealism, each.faithfulness) for each in ratings.ratings()] == [(0, 0)]


def test_one_undoes_as_far_back_as_one_likes(ratings):
    rater = ratings.join("Ann")
    rate_all(ratings, rater)
    assert ratings.next(rater) is None
    for left in range(8, -1, -1):
        assert ratings.undo(rater, ratings.progress(rater).last)
        assert ratings.next(rater).place == left
    assert ratings.progress(rater) == (ratings.progress(rater).__class__)(0, 9, None)


def test_the_same_name_goes_on_and_another_begins(study):
    with Ratings.open(study) as ratings:
        ann = ratings.join(" Ann  B ")
        ratings.rate(ann, 0, RIGHT)
    with Ratings.open(study) as ratings:
        assert ratings.rater("ann b") == ratings.join("ANN B") == ann
        assert ratings.next(ann).place == 1
        assert ratings.rater("Bob") is None
        bob = ratings.join("Bob")
        assert ratings.progress(bob).rated == 0
        assert [rater.name for rater, _ in ratings.raters()] == ["Ann B", "Bob"]


@pytest.mark.parametrize("name", ["", " ", "=1+1", "-x", "a\nb" * 40, "<script>", "x" * 61, "a\x00"])
def test_what_is_no_name_is_refused(ratings, name):
    with pytest.raises(UserError, match="a name begins"):
        ratings.join(name)
    assert ratings.raters() == []


@pytest.mark.parametrize("name", ["Ann", "Zoë O'Hara", "陳大文", "3", "a.b@c.de", "x" * 60])
def test_names_of_all_scripts_are_taken(ratings, name):
    assert ratings.join(name).name == name


@pytest.mark.parametrize(("place", "verdict"), [(9, RIGHT), (-1, RIGHT), (0, Verdict(2, 0)), (0, Verdict(1, 1, 4))])
def test_what_there_is_not_cannot_be_rated(ratings, place, verdict):
    rater = ratings.join("Ann")
    with pytest.raises(UserError):
        ratings.rate(rater, place, verdict)
    assert len(ratings) == 0


def test_raters_who_are_shown_a_part_share_the_prompts_evenly(ratings):
    raters = [ratings.join(f"rater {n}", most_prompts=2) for n in range(6)]
    prompts = [each.task.prompt for rater in raters for each in ratings.assigned(rater)]
    assert {prompt: prompts.count(prompt) for prompt in range(3)} == dict.fromkeys(range(3), 4 * 3)


def test_two_raters_at_once_in_two_processes(study):
    processes = [begin(study, name) for name in ("Ann", "Bob")]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(lines) for lines in told] == [9, 9]
    with Ratings.open(study) as ratings:
        assert len(ratings) == 18
        ratings.verify()
        assert all(done.rated == done.of == 9 for _, done in ratings.raters())


def test_the_same_rater_in_two_windows_has_each_verdict_once(study):
    with Ratings.open(study) as ratings:
        rater, stored = ratings.join("Ann"), []
        windows = [
            threading.Thread(target=lambda: stored.extend(ratings.rate(rater, p, RIGHT) for p in range(9)))
            for _ in range(4)
        ]
        for window in windows:
            window.start()
        for window in windows:
            window.join()
        assert stored.count(True) == 9 and len(ratings) == 9


def test_kill_9_loses_no_rating_that_was_said_to_be_stored(tmp_path):
    study = study_of(tmp_path, systems=("a", "b"), prompts=[f"prompt {p}" for p in range(60)], number=1, best_of=1)
    rng, said = random.Random(0), {}
    for kills in range(1, 5):
        process = begin(study, "Ann")
        process.stdin.write("\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(rng.randrange(1, 10))]
        time.sleep(rng.uniform(0, 0.01))  # somewhere within a rating
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines(keepends=True)
        assert process.returncode == -signal.SIGKILL
        for line in lines:
            if line.endswith("\n"):
                place, *verdict = map(int, line.split())
                said[place] = verdict
        with Ratings.open(study) as ratings:
            ratings.verify()
            found = {each.place: [each.photorealism, each.faithfulness] for each in ratings.ratings()}
        assert all(found[place] == verdict[:2] for place, verdict in said.items())
        assert len(found) - len(said) <= kills, "at most the one that was being said"


def test_ratings_of_other_pictures_are_refused(tmp_path):
    first, second = study_of(tmp_path / "a"), study_of(tmp_path / "b", systems=("x", "y"))
    with Ratings.open(first) as ratings:
        ratings.rate(ratings.join("Ann"), 0, RIGHT)
    (first.path / FILE).replace(second.path / FILE)
    with pytest.raises(UserError, match="ratings of other pictures"):
        Ratings.open(second)


def test_other_files_and_newer_ones_are_refused(study):
    path = study.path / FILE
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="cannot be opened as ratings"):
        Ratings.open(study)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE notes (x)")
    other.close()
    with pytest.raises(UserError, match="was not written by this program"):
        Ratings.open(study)
    for left in study.path.glob(f"{FILE}*"):
        left.unlink()
    Ratings.open(study).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(UserError, match="newer version"):
        Ratings.open(study)


def test_a_rating_is_on_the_disk_when_it_is_stored(ratings):
    rater = ratings.join("Ann")
    ratings.rate(rater, 0, RIGHT)
    connection = ratings._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL"
    with sqlite3.connect(ratings.path) as other:  # what another process sees
        assert other.execute("SELECT kind FROM events").fetchall() == [("rated",)]
    other.close()


def test_the_log_keeps_what_was_taken_back(ratings):
    rater = ratings.join("Ann")
    ratings.rate(rater, 0, RIGHT)
    ratings.undo(rater, ratings.progress(rater).last)
    ratings.rate(rater, 0, WRONG)
    with sqlite3.connect(ratings.path) as other:
        rows = other.execute("SELECT kind, photorealism FROM events ORDER BY id").fetchall()
    other.close()
    assert rows == [("rated", 1), ("undone", 1), ("rated", 0)]


def test_a_study_that_was_changed_is_refused(study):
    manifest = study.path / "manifest.json"
    told = json.loads(manifest.read_text())
    told["tasks"][0]["system"] = 1 - told["tasks"][0]["system"]
    manifest.write_text(json.dumps(told))
    with pytest.raises(UserError, match="changed since it was written"):
        Study.open(study.path)
    assert len(PROMPTS) == len(study.prompts)
