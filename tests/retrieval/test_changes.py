"""Bases that grow, shrink and merge: the same as if built at once, and whole whatever happens meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.data.sources import Where
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.analysis import Analyser
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.retrieval.bases import LetterEncoder, change_manifest, dense, described, records_with, write_version_1
from tests.samples import records_of

FIRST = ["a red cat", "a blue dog", "a green bird"]
SECOND = ["a red bird", "the red 猫", "a blue cat and a dog"]
ROOT = Path(__file__).parents[2]
SETTINGS = {"dense": dense(), "encoder": LetterEncoder()}


def files(base: KnowledgeBase) -> dict[str, str]:
    """Checksums of the files of the indexes; `rows.npy` tells of deletions and is no part of what is found."""
    return {name: entry["sha256"] for name, entry in base.manifest["files"].items() if name != "rows.npy"}


@pytest.fixture
def parts(tmp_path):
    return described(tmp_path / "r1", FIRST), described(tmp_path / "r2", SECOND, first=len(FIRST))


@pytest.fixture
def whole(parts, tmp_path):
    return KnowledgeBase.build(parts, tmp_path / "whole", **SETTINGS)


def test_in_whatever_steps(parts, whole, tmp_path):
    first, second = (KnowledgeBase.build(part, tmp_path / part.path.name[1], **SETTINGS) for part in parts)
    merged = KnowledgeBase.merge([first, second], tmp_path / "merged")
    appended = first.append(parts[1])
    assert appended.path == first.path
    everything = described(tmp_path / "all", [*FIRST, *SECOND])
    at_once = KnowledgeBase.build(everything, tmp_path / "at_once", **SETTINGS)
    assert files(whole) == files(merged) == files(appended) == files(at_once)
    assert [record.text for record in merged.records] == [*FIRST, *SECOND]
    for base in (whole, merged, appended):
        base.verify()
        assert base.keys() == base.records.keys() == at_once.keys()
        for method in ("lexical", "dense", "hybrid"):
            for mine, theirs in zip(
                base.search(FIRST, 4, method=method), at_once.search(FIRST, 4, method=method), strict=True
            ):
                np.testing.assert_array_equal(mine, theirs)


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(0, 5), min_size=1, max_size=5))
def test_deleted_is_as_if_never_there(tmp_path_factory, gone):
    folder = tmp_path_factory.mktemp("delete")
    texts = [*FIRST, *SECOND]
    parts = described(folder / "r1", FIRST), described(folder / "r2", SECOND, first=3)
    base = KnowledgeBase.build(parts, folder / "kb", **SETTINGS)
    left = base.delete([f"k{i}" for i in gone], out=folder / "left")
    kept = [i for i in range(6) if i not in gone]
    assert left.keys() == [f"k{i}" for i in kept]
    assert left.records.texts() == [texts[i] for i in kept]
    assert [r.text for r in left.records.fetch(range(len(kept))[::-1])] == [texts[i] for i in kept][::-1]
    left.verify()
    examples = [parts[i // 3][i % 3] for i in kept]
    alone = KnowledgeBase.build(records_with(folder / "r", examples), folder / "alone", **SETTINGS)
    assert files(left) == files(alone)
    assert len(base) == 6  # what was opened before still reads what was there
    assert base.search(texts, 1)[0][:, 0].tolist() == list(range(6))


def test_delete_by_condition_in_place(parts, tmp_path):
    base = KnowledgeBase.build(parts, tmp_path / "kb")
    left = base.delete(where=Where.parse(["colour=red"]))
    assert left.path == base.path
    assert left.records.texts() == ["a blue dog", "a green bird", "a blue cat and a dog"]
    again = left.delete(["k1"]).append(described(tmp_path / "r3", ["a red fox"], first=9))
    assert again.records.texts() == ["a green bird", "a blue cat and a dog", "a red fox"]
    assert again.manifest["deleted"] == 4
    assert again.search(["red fox"], 1)[0].tolist() == [[2]]
    again.verify()
    assert len(parts[0]) == 3  # the records' own folder is not touched


def test_deleting_nothing_everything_or_the_unknown(whole):
    before = files(whole)
    for change, said in (
        ({}, "none of the records"),
        ({"keys": whole.keys()}, "all of the records"),
        ({"keys": ["k9"]}, "no record with the key"),
        ({"where": Where.parse(["colour=pink"])}, "no record has it"),
    ):
        with pytest.raises(UserError, match=said):
            whole.delete(**change)
    assert files(KnowledgeBase.open(whole.path)) == before


def test_the_same_record_twice(parts, whole, tmp_path):
    with pytest.raises(UserError, match=r"record 'k0' of test twice"):
        whole.append(parts[0])
    with pytest.raises(UserError, match="twice"):
        KnowledgeBase.build([parts[0], parts[0]], tmp_path / "kb")
    first = KnowledgeBase.build(parts[0], tmp_path / "first", **SETTINGS)
    merged = KnowledgeBase.merge([first, whole], tmp_path / "merged")
    assert merged.keys() == whole.keys()
    assert files(merged) == files(whole)


def test_sources_tell_equal_keys_apart(tmp_path):
    one, other = records_of(tmp_path / "1", FIRST, source="one"), records_of(tmp_path / "2", SECOND, source="other")
    base = KnowledgeBase.build([one, other], tmp_path / "kb")
    assert base.sources() == ["one"] * 3 + ["other"] * 3
    with pytest.raises(ValueError, match="2 sources"):
        _ = base.records.source
    assert base.ids_of(["k1"]).tolist() == [1, 4]
    assert base.search(["a dog"], 6, exclude=["k1"])[0][0].tolist()[:2] == [5, 0]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"k1": 1.6}, "their settings are"),
        ({"analyser": Analyser(stemming="english")}, "their settings are"),
        ({"dense": None, "encoder": None}, "only .*first has vectors"),
        ({"dense": dense(of="image")}, "their vectors are of"),
    ],
)
def test_bases_that_differ_are_not_merged(parts, tmp_path, other, said):
    first = KnowledgeBase.build(parts[0], tmp_path / "first", **SETTINGS)
    second = KnowledgeBase.build(parts[1], tmp_path / "second", **(SETTINGS | other))
    with pytest.raises(UserError, match=said):
        KnowledgeBase.merge([first, second], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_records_that_changed_after_indexing(parts, whole, tmp_path):
    shutil.rmtree(parts[1].path)
    described(parts[1].path, SECOND[::-1], first=3)
    with pytest.raises(UserError, match=r"other records than .*r2 holds now.*reimagen index"):
        KnowledgeBase.open(whole.path)
    shutil.rmtree(parts[1].path)
    with pytest.raises(UserError, match=r"records in .*r2, which are gone"):
        KnowledgeBase.open(whole.path)


def test_a_base_of_format_1_grows_by_its_own_rules(tmp_path):
    old = KnowledgeBase.open(write_version_1(records_of(tmp_path / "r", ["a red cat", "東京タワー"]), tmp_path / "old"))
    grown = old.append(records_of(tmp_path / "r2", ["東京タワー red"], first_seed=5), out=tmp_path / "grown")
    assert grown.lexical.analyser == Analyser(version=1)
    assert grown.search(["東京タワー"], 3)[0].tolist() == [[1, 2, -1]]
    assert grown.search(["東京"], 3)[0].max() == -1


def test_another_index_of_the_right_form_does_not_verify(parts, whole, tmp_path):
    other = KnowledgeBase.build([described(tmp_path / "r", ["a pink cow"] * 6)], tmp_path / "other", **SETTINGS)
    fields = other.manifest | {name: whole.manifest[name] for name in ("parts", "count", "deleted")}
    (other.path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="does not index the captions"):
        KnowledgeBase.open(other.path, encoder=LetterEncoder()).verify()


KILLED = """
import os, signal, sys
import reimagen_jax.{module} as module
from reimagen_jax.data.records import Records
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

module.{name} = killed
base, records = KnowledgeBase.open(sys.argv[1]), Records.open(sys.argv[2])
{change}
"""


@pytest.mark.parametrize(
    ("module", "name", "change"),
    [
        ("retrieval.building", "read", "KnowledgeBase.build(records, base.path, overwrite=True)"),
        ("retrieval.postings", "save", "KnowledgeBase.build(records, base.path, overwrite=True)"),
        ("retrieval.stored", "write_manifest", "KnowledgeBase.build(records, base.path, overwrite=True)"),
        ("retrieval.stored", "write_manifest", "base.append(records)"),
    ],
)
def test_killed_while_it_builds(tmp_path, module, name, change):
    """SIGKILL, from first to last: the old base is there, whole, and the next attempt works."""
    old = KnowledgeBase.build(records_of(tmp_path / "r", FIRST), tmp_path / "kb")
    other = records_of(tmp_path / "other", SECOND, first_seed=3)
    code = KILLED.format(module=module, name=name, change=change)
    done = subprocess.run(
        [sys.executable, "-c", code, str(old.path), str(other.path)], check=False, cwd=ROOT, env=os.environ
    )
    assert done.returncode == -signal.SIGKILL
    survivor = KnowledgeBase.open(old.path)
    survivor.verify()
    assert survivor.fingerprint == old.fingerprint
    assert survivor.search(FIRST, 1)[0][:, 0].tolist() == [0, 1, 2]
    assert len(survivor.append(other)) == 6


@pytest.mark.parametrize("method", ["lexical", "dense"])
def test_a_reader_keeps_the_base_that_it_opened(parts, tmp_path, method):
    """Searched first after it was replaced and removed: keys, records, words, vectors, attributes are of one base."""
    KnowledgeBase.build(parts, tmp_path / "kb", **SETTINGS).delete(["k0"])
    reader = KnowledgeBase.open(tmp_path / "kb", encoder=LetterEncoder())
    KnowledgeBase.build(parts, tmp_path / "kb", overwrite=True, **SETTINGS).delete(["k5"])
    hit = int(reader.search(["a blue dog"], 1, method=method)[0][0, 0])
    assert (reader.keys()[hit], reader.records[hit].key, reader.records[hit].text) == ("k1", "k1", "a blue dog")
    assert reader.search(["a"], 9, where=Where.parse(["colour=red"]))[0].max() >= 0
    assert len(reader.append(parts_again(tmp_path), out=tmp_path / "more")) == 6
    assert KnowledgeBase.open(tmp_path / "kb").keys() == ["k0", "k1", "k2", "k3", "k4"]


def parts_again(tmp_path):
    return described(tmp_path / "r3", ["a red fox"], first=9)


def test_opening_a_base_that_is_being_replaced(parts, tmp_path):
    """Opened again and again while another process replaces it: one or the other, never a mixture nor an error."""
    code = (
        "import os, sys; from reimagen_jax.retrieval.knowledge_base import KnowledgeBase\n"
        "from reimagen_jax.data.records import Records\n"
        "parts = [Records.open(p) for p in sys.argv[2:]]\n"
        "for turn in range(1000):\n"
        "    if os.path.exists(sys.argv[1] + '.stop'): break\n"
        "    KnowledgeBase.build(parts[turn % 2], sys.argv[1], overwrite=True)"
    )
    KnowledgeBase.build(parts[0], tmp_path / "kb")
    command = [sys.executable, "-c", code, str(tmp_path / "kb"), *(str(part.path) for part in parts)]
    seen = []
    with subprocess.Popen(command, cwd=ROOT, env=os.environ) as writer:
        try:
            while writer.poll() is None and (len(seen) < 40 or len(set(seen)) < 2):
                base = KnowledgeBase.open(tmp_path / "kb")
                assert base.keys() == base.records.keys()
                assert base.search(["a red cat"], 1)[0][0, 0] >= 0
                seen.append(base.keys()[0])
        finally:
            (tmp_path / "kb.stop").touch()
    assert writer.returncode == 0
    assert set(seen) == {"k0", "k3"}


def test_two_that_append_at_once(parts, tmp_path):
    """Both land, one after the other; the second adds to what the first has made."""
    base = KnowledgeBase.build(parts[0], tmp_path / "kb")
    code = (
        "import sys; from reimagen_jax.retrieval.knowledge_base import KnowledgeBase\n"
        "from reimagen_jax.data.records import Records\n"
        "base, records = KnowledgeBase.open(sys.argv[1]), Records.open(sys.argv[2])\n"
        "print('open', flush=True); sys.stdin.readline(); base.append(records)"
    )
    more = [described(tmp_path / f"more{i}", [f"a red fox {i}"] * 3, first=10 * i) for i in (1, 2)]
    commands = [[sys.executable, "-c", code, str(base.path), str(records.path)] for records in more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=ROOT, env=os.environ, **pipes) for command in commands]
    for each in running:
        assert each.stdout.readline() == "open\n"
    for each in running:
        each.stdin.write("go\n")
        each.stdin.close()
    assert [each.wait() for each in running] == [0, 0]
    for each in running:
        each.stdout.close()
    after = KnowledgeBase.open(base.path)
    assert sorted(after.keys()) == sorted([*base.keys(), *(key for records in more for key in records.keys())])  # noqa: SIM118
    after.verify()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_appending_to_a_base_that_has_changed_since_it_was_opened(parts, tmp_path):
    base = KnowledgeBase.build(parts[0], tmp_path / "kb")
    KnowledgeBase.open(base.path).append(parts[1])
    assert len(base.append(parts_again(tmp_path))) == 7
    assert len(base) == 3
    with pytest.raises(UserError, match="no record with the key 'k0'"):
        base.delete(["k0"]).delete(["k0"])
    assert len(KnowledgeBase.open(base.path)) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k1", "1.2"),
        ("count", 0),
        ("parts", [{"records": 3}]),
        ("analyser", {"version": 2, "stemming": 5, "stop_words": []}),
        ("dense", {"encoder": "e", "of": "sound"}),
    ],
)
def test_an_edited_manifest_names_the_field(whole, name, value):
    change_manifest(whole.path, **{name: value})
    with pytest.raises(UserError, match=rf"whole is damaged: .*manifest\.json\.{name}.*reimagen index"):
        KnowledgeBase.open(whole.path)


def test_a_changed_manifest_does_not_verify(whole):
    change_manifest(whole.path, k1=1.3)
    base = KnowledgeBase.open(whole.path, encoder=LetterEncoder())
    with pytest.raises(UserError, match=r"manifest\.json was changed since it was written"):
        base.verify()
