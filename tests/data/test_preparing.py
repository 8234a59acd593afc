"""Preparing records: interrupted anywhere, even by kill -9, the result is the same, byte for byte."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest

from reimagen_jax.data import records as records_module
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.preparing import prepare_records
from reimagen_jax.data.records import Records, write_records
from reimagen_jax.data.sources import Captions, FolderSource, Place, WebdatasetSource, Where, WorldSource
from reimagen_jax.data.sources.base import Source
from reimagen_jax.data.unfinished import place_of
from reimagen_jax.errors import UserError
from reimagen_jax.files import atomic_dir
from tests.data.sources.test_webdataset import sample, write_shard
from tests.samples import example, picture, write_folder

BEGINNING = Place()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(records_module, "RECORDS_PER_SHARD", 4)


def checksums(folder) -> dict[str, str]:
    """Of everything that is written, but the manifest's own."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def shards(tmp_path):
    """Shards with good and bad samples, repetitions, and a damaged one between them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        members = [member for n in range(7) for member in sample(10 * shard + n, caption=f"caption {n % 5}")]
        members[6:6] = [("bad.txt", b"x"), ("torn.jpg", b"no"), ("torn.txt", b"x")]
        write_shard(folder / f"{shard}.tar", [*members, *sample(0)])
    (folder / "1b.tar").write_bytes((folder / "0.tar").read_bytes()[:5000])
    return WebdatasetSource(tuple(sorted(folder.glob("*.tar"))))


def interrupted(source: Source, after: int) -> Source:
    """The source, which breaks after so many items."""

    class Breaking(type(source)):
        def read(self, start=BEGINNING):
            for number, found in enumerate(super().read(start)):
                if number == after:
                    raise KeyboardInterrupt
                yield found

    return Breaking(**{field.name: getattr(source, field.name) for field in fields(source)})


def test_equals_what_write_records_writes(tmp_path, shards):
    items = [item for item in shards.items() if hasattr(item, "image")]
    write_records(items, tmp_path / "a", source=shards.name)
    prepared = prepare_records(shards, tmp_path / "b")
    assert list(prepared) == items
    same = {name for name, value in checksums(tmp_path / "a").items() if value == checksums(tmp_path / "b").get(name)}
    assert checksums(tmp_path / "a").keys() - same == {"manifest.json", "skipped.jsonl"}
    assert prepared.fingerprint == Records.open(tmp_path / "a").fingerprint


def test_interruptions_leave_no_trace(tmp_path, shards):
    whole = prepare_records(shards, tmp_path / "whole", settings={"a": 1})
    expected = checksums(tmp_path / "whole")
    number = len(list(shards.read()))
    assert len(whole) > 8
    for first in range(0, number - 5, 3):
        out, seen = tmp_path / f"out{first}", []
        for after in (first, 5, 0):
            with pytest.raises(KeyboardInterrupt):
                prepare_records(interrupted(shards, after), out, settings={"a": 1})
        prepare_records(shards, out, settings={"a": 1}, on_problem=seen.append)
        assert checksums(out) == expected
        assert [vars(p) for p in seen] == [
            json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()
        ]
        assert not place_of(out).exists()


def test_a_torn_last_shard_is_written_again(tmp_path, shards):
    expected = checksums(prepare_records(shards, tmp_path / "whole").path)
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(shards, 12), tmp_path / "out")
    folder = place_of(tmp_path / "out") / "output"
    noted = json.loads((folder.parent / "progress.json").read_text())["state"]["shards"]
    (folder / f"image_text-records.array_record-{len(noted):05d}").write_bytes(b"torn")
    (folder / "skipped.jsonl").write_text((folder / "skipped.jsonl").read_text() + '{"name": "torn')
    assert checksums(prepare_records(shards, tmp_path / "out").path) == expected


def test_killed_while_finishing(tmp_path, shards, monkeypatch):
    expected = checksums(prepare_records(shards, tmp_path / "whole").path)
    with monkeypatch.context() as patch:
        patch.setattr(records_module, "write_manifest", lambda *args: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            prepare_records(shards, tmp_path / "out")
    monkeypatch.setattr(type(shards), "read", lambda self, start: pytest.fail("read again"))
    assert checksums(prepare_records(shards, tmp_path / "out").path) == expected


def test_a_damaged_complete_shard_is_refused(tmp_path, shards):
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(shards, 12), tmp_path / "out")
    shard = next((place_of(tmp_path / "out") / "output").glob("*-00000"))
    whole = shard.read_bytes()
    for content in (whole[:-1], whole[:200] + bytes(8) + whole[208:]):
        shard.write_bytes(content)
        with pytest.raises(UserError, match=r"-00000 is damaged.*remove"):
            prepare_records(shards, tmp_path / "out")


def test_other_settings_or_a_changed_source_are_refused(tmp_path, shards):
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(shards, 12), tmp_path / "out", settings={"a": 1})
    with pytest.raises(UserError, match=r"settings\.a was 1, now 2"):
        prepare_records(shards, tmp_path / "out", settings={"a": 2})
    write_shard(shards.paths[0], sample(77))
    with pytest.raises(UserError, match="source was"):
        prepare_records(WebdatasetSource(shards.paths), tmp_path / "out", settings={"a": 1})
    assert len(prepare_records(WebdatasetSource(shards.paths), tmp_path / "out", overwrite=True)) > 0


def test_stopping_at_the_first_problem_keeps_what_is_done(tmp_path, shards):
    def stop(problem):
        raise UserError(str(problem))

    with pytest.raises(UserError, match="no picture"):
        prepare_records(shards, tmp_path / "out", on_problem=stop)
    assert not place_of(tmp_path / "out").exists()  # no shard was complete


def test_nothing_to_write(tmp_path):
    folder = write_folder(tmp_path / "f", [{"file_name": "gone.png", "text": "x"}], {})
    with pytest.raises(UserError, match=r"nothing to write.*has nothing usable; 1 x missing file"):
        prepare_records(FolderSource(folder), tmp_path / "out", settings={"where": []})
    with pytest.raises(UserError, match=r"nothing to write.*has nothing usable that fits role=train; 1 x missing file"):
        prepare_records(FolderSource(folder), tmp_path / "out", settings={"where": ["role=train"]})
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_several_captions_are_parted_by_an_interruption(tmp_path):
    lines = [{"file_name": f"{n}.png", "captions": [f"{n}{c}" for c in "abc"]} for n in range(5)]
    source = FolderSource(write_folder(tmp_path / "f", lines, {f"{n}.png": picture(n) for n in range(5)}))
    expected = checksums(prepare_records(source, tmp_path / "whole").path)
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(source, 5), tmp_path / "out")
    state = json.loads((place_of(tmp_path / "out") / "progress.json").read_text())["state"]
    assert state["place"] == [0, 1, 1]
    assert checksums(prepare_records(source, tmp_path / "out").path) == expected


def test_entityworld_goes_on_where_it_was(tmp_path):
    source = WorldSource(World(num_entities=10, num_images=60), Where.parse(["split=rare"]), 16)
    expected = checksums(prepare_records(source, tmp_path / "whole").path)
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(source, 9), tmp_path / "out")
    assert checksums(prepare_records(source, tmp_path / "out").path) == expected


KILLED = """
import sys, time
from pathlib import Path
from reimagen_jax.data import records, images
from reimagen_jax.data.preparing import prepare_records
from reimagen_jax.data.sources import WebdatasetSource
records.RECORDS_PER_SHARD = 4
load = images.load
def slow(data):
    time.sleep(0.2)
    return load(data)
images.load = slow
print("go", flush=True)
prepare_records(WebdatasetSource(tuple(sorted(Path(sys.argv[1]).glob("*.tar")))), sys.argv[2])
"""


def test_kill_9(tmp_path, shards):
    expected = checksums(prepare_records(shards, tmp_path / "whole").path)
    out = tmp_path / "out"
    for delay in (0.25, 0.25):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(shards.paths[0].parent), str(out)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"go\n"
            deadline = time.monotonic() + 60
            before = noted(out)
            while noted(out) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert noted(out) != before
        assert not out.exists()
    said, before = [], noted(out)
    prepare_records(shards, out, say=said.append)
    assert said == [f"going on after {4 * before} records written before"]
    assert checksums(out) == expected


def noted(out) -> int:
    """Shards noted as complete."""
    progress = place_of(out) / "progress.json"
    return len(json.loads(progress.read_text())["state"]["shards"]) if progress.exists() else 0


def test_captions_and_shards_do_not_hold_everything_in_memory(tmp_path):
    """The look-ahead is bounded: no more pictures are read than a few in advance of the writer."""
    read = []

    class Counting(FolderSource):
        def entries(self, file, start):
            for found in super().entries(file, start):
                read.append(found)
                yield found

    lines = [{"file_name": f"{n}.png", "text": f"{n}"} for n in range(200)]
    folder = write_folder(tmp_path / "f", lines, {f"{n}.png": picture(n) for n in range(200)})
    found = Counting(folder, captions=Captions()).read()
    for number in range(50):
        next(found)
        assert len(read) - number < 40


def test_settings_with_tuples_go_on_where_they_were(tmp_path):
    """Those of EntityWorld have tuples in them, which come back from JSON as lists."""
    source = WorldSource(World(num_entities=10, num_images=60), resolution=16)
    settings = {"where": [], "world": vars(source.world)}
    expected = checksums(prepare_records(source, tmp_path / "whole", settings=settings).path)
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(source, 10), tmp_path / "out", settings=settings)
    said = []
    prepare_records(source, tmp_path / "out", settings=settings, say=said.append)
    assert said == ["going on after 8 records written before"]
    assert checksums(tmp_path / "out") == expected


def test_when_all_is_done_nothing_is_left_to_do(tmp_path, shards, monkeypatch):
    before = checksums(prepare_records(shards, tmp_path / "out", settings={"a": (1, 2)}).path)
    said, seen = [], []
    with monkeypatch.context() as patch:
        patch.setattr(type(shards), "read", lambda self, start: pytest.fail("read again"))
        again = {"settings": {"a": (1, 2)}, "say": said.append, "on_problem": seen.append}
        assert len(prepare_records(shards, tmp_path / "out", **again)) > 8
    assert "complete: nothing is left to do" in said[0]
    assert len(seen) == len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    assert checksums(tmp_path / "out") == before
    with pytest.raises(
        UserError, match="already exists, and its records were made with a 1 2, not 1 3: pass --overwrite"
    ):
        prepare_records(shards, tmp_path / "out", settings={"a": (1, 3)})
    with pytest.raises(UserError, match="made with a 1 2, not none; where none, not role=train: pass"):
        prepare_records(shards, tmp_path / "out", settings={"where": ["role=train"], "world": {}})


KILLED_IN_PLACE = """
import os, signal, sys
from pathlib import Path
from reimagen_jax import files
from reimagen_jax.data import preparing, records, unfinished
from reimagen_jax.data.sources import FolderSource

def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def die_removing(what):
    remove = files.shutil.rmtree
    files.shutil.rmtree = lambda path, **options: killed() if what(path) else remove(path, **options)

records.RECORDS_PER_SHARD = 4
{patch}
preparing.prepare_records(FolderSource(Path(sys.argv[1])), sys.argv[2], overwrite=True)
"""


@pytest.mark.parametrize(
    ("patch", "overwrite", "survivor"),
    [
        ("unfinished.mark_folder = killed", True, 1),
        ("unfinished.put_in_place = killed", True, 1),
        ("files._exchange = killed", True, 1),
        ("die_removing(lambda path: (path / files.MARK).exists())", True, 10),  # the old one, set aside
        ("die_removing(lambda path: path.name.endswith('.unfinished'))", True, 10),
        ("die_removing(lambda path: path.name.endswith('.unfinished'))", False, 10),
    ],
)
def test_killed_while_it_replaces(tmp_path, patch, overwrite, survivor):
    """Just before and after the new folder takes the old one's place: the same command ends in the same result."""
    names = [f"{i}.png" for i in range(10)]
    lines = [{"file_name": name, "text": f"text {name}"} for name in names]
    folder = write_folder(tmp_path / "photos", lines, {name: picture(i) for i, name in enumerate(names)})
    source = FolderSource(folder)
    expected = checksums(prepare_records(source, tmp_path / "whole").path)
    write_records([example(0, "the old one")], tmp_path / "out", source="old")
    command = [sys.executable, "-c", KILLED_IN_PLACE.format(patch=patch), str(folder), str(tmp_path / "out")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(Records.open(tmp_path / "out")) == survivor
    prepare_records(source, tmp_path / "out", overwrite=overwrite)
    assert checksums(tmp_path / "out") == expected
    assert not place_of(tmp_path / "out").exists()
    with atomic_dir(tmp_path / "next"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next", "out", "photos", "whole"]


@pytest.mark.parametrize("change", [{"shards": [[1, 2]]}, {"place": [0, -1, 0]}, {"skipped_bytes": "0"}, {"read": 2}])
def test_edited_progress_is_refused_by_its_field(tmp_path, shards, change):
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(shards, 12), tmp_path / "out")
    path = place_of(tmp_path / "out") / "progress.json"
    progress = json.loads(path.read_text())
    progress["state"] |= change
    path.write_text(json.dumps(progress))
    with pytest.raises(UserError, match=rf"progress noted there\.{next(iter(change))}"):
        prepare_records(shards, tmp_path / "out")


def test_damaged_progress_is_thrown_away_when_asked(tmp_path, shards):
    with pytest.raises(KeyboardInterrupt):
        prepare_records(interrupted(shards, 12), tmp_path / "out")
    (place_of(tmp_path / "out") / "progress.json").write_text("{")
    with pytest.raises(UserError, match=r"progress\.json cannot be read.*--overwrite"):
        prepare_records(shards, tmp_path / "out")
    prepare_records(shards, tmp_path / "out", overwrite=True)
