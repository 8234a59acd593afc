"""Parts of records: nothing of one is in another, shares are as asked, rare entities keep what they are to keep."""

import io
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.records import Records, write_records
from reimagen_jax.data.splitting import Rarity, by_frequency, by_shares, grouped
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples

FAMILIES, ENTITIES = 20, 30


def picture(number):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def examples():
    """Entities of 1 to 9 pictures, the last ten of them in families with the first ten; every fifth picture has two
    captions, every 40th record has no entity and no family."""
    number = 0
    for e in range(ENTITIES):
        for _ in range(1 + e % 9):
            number += 1
            told = {"entity": f"e{e}", "family": f"f{e % FAMILIES}", "role": "old"} if number % 40 else {}
            for i, text in enumerate(["a", "b"] if number % 5 == 0 else ["a"]):
                yield ImageText(f"{number}{'#' * i}", picture(number), f"{text} e{e}", told)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(examples(), tmp_path_factory.mktemp("split") / "records", source="made", settings={"a": 1})


def parts_by(records, found, name_N, field):
    """Value of a field -> the parts in which it is."""
    parts = defaultdict(set)
    for record, name in zip(records, name_N.tolist(), strict=True):
        if field in record.attributes:
            parts[record.attributes[field]].add(name)
    return parts


def parts_of_pictures(records, name_N):
    parts = defaultdict(set)
    for digest, name in zip(records.digests(), name_N.tolist(), strict=True):
        parts[digest].add(name)
    return parts


@pytest.mark.parametrize("fields", [(), ("entity",), ("entity", "family"), ("family",)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_belongs_together_is_in_one_part_and_shares_are_those_of_the_groups(records, fields, seed):
    found = grouped(records, fields)
    name_N = by_shares(found, {"train": None, "valid": 0.25, "test": 0.1}, seed)
    for field in fields:
        assert all(len(parts) == 1 for parts in parts_by(records, found, name_N, field).values())
    assert all(len(parts) == 1 for parts in parts_of_pictures(records, name_N).values())
    part_of = dict(zip(found.group_N.tolist(), name_N.tolist(), strict=True))
    total, counts = len(part_of), Counter(part_of.values())
    assert (counts["valid"], counts["test"]) == (round(0.25 * total), round(0.1 * total))
    assert counts.total() == total and len(part_of) == len(np.unique(found.group_N))


def test_groups_are_the_components_of_all_fields_and_of_pictures(records):
    found = grouped(records, ("entity", "family"))
    lonely = sum(not record.attributes for record in records)
    assert found.without == {"entity": lonely, "family": lonely} and lonely > 2
    named = [group for group, record in zip(found.group_N.tolist(), records, strict=True) if record.attributes]
    families = [record.attributes["family"] for record in records if record.attributes]
    assert len(set(named)) == len(set(families)) == len(set(zip(named, families, strict=True)))
    pictures = {(digest, group) for digest, group in zip(records.digests(), found.group_N.tolist(), strict=True)}
    assert len(pictures) == len(set(records.digests())) < len(records)


def test_the_seed_decides_and_nothing_else(records):
    found = grouped(records, ("entity",))
    drawn = [by_shares(found, {"train": None, "test": 0.3}, seed).tolist() for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    rarity = Rarity(unseen=0.2, rare=0.2)
    drawn = [[array.tolist() for array in by_frequency(found, rarity, seed)] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("rarity", [Rarity(0.2, 0.3, keep=2), Rarity(0.2, rare_below=5), Rarity(unseen=0.5)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_unseen_entities_are_never_trained_on_and_rare_ones_keep_a_few_pictures(records, rarity, seed):
    found = grouped(records, ("entity", "family"))
    role_N, split_N = by_frequency(found, rarity, seed)
    assert all(len(splits) == 1 for splits in parts_by(records, found, split_N, "family").values())
    assert all(len(roles) == 1 for roles in parts_of_pictures(records, role_N).values())
    assert set(role_N[split_N == "frequent"]) == {"train"} and set(role_N[split_N == "unseen"]) == {"reference"}
    pictures, trained = defaultdict(set), defaultdict(set)
    for entity, digest, role in zip(found.entity_N.tolist(), records.digests(), role_N.tolist(), strict=True):
        pictures[entity].add(digest)
        trained[entity] |= {digest} if role == "train" else set()
    for entity in set(found.entity_N[split_N == "rare"].tolist()):
        assert len(trained[entity]) == min(rarity.keep, len(pictures[entity]))
    split_of = dict(zip(found.group_N.tolist(), split_N.tolist(), strict=True))
    counts = Counter(split_of.values())
    assert counts["unseen"] == round(rarity.unseen * len(split_of))
    if rarity.rare_below:
        most = defaultdict(int)
        for group, entity in zip(found.group_N.tolist(), found.entity_N.tolist(), strict=True):
            most[group] = max(most[group], len(pictures[entity]))
        seen = {group: most[group] < rarity.rare_below for group, split in split_of.items() if split != "unseen"}
        assert seen == {group: split_of[group] == "rare" for group in seen} and 0 < sum(seen.values()) < len(seen)
    else:
        assert counts["rare"] == round(rarity.rare * len(split_of))


def split(records, out, *options):
    return main(["split", str(records.path), "--out", str(out), *options])


def test_parts_are_records_with_their_part_noted_and_leaks_are_found_across_them(records, tmp_path, capsys):
    options = ("--by", "entity", "family", "--unseen", "0.3", "--rare", "0.2")
    assert split(records, tmp_path / "parts", *options) == 0
    said = capsys.readouterr()
    assert "records had an attribute 'role', which is written anew" in said.err
    assert "records have no entity: each is by itself" in said.err
    header, *rows = (line.split() for line in said.out.splitlines()[:4])
    assert header == ["of", "entity", "train", "reference"] and [row[0] for row in rows] == [
        "frequent",
        "rare",
        "unseen",
    ]
    parts = {name: Records.open(tmp_path / "parts" / name) for name in ("train", "reference")}
    assert [sum(int(row[i]) for row in rows) for i in (2, 3)] == [len(part) for part in parts.values()]
    before = {record.key: record for record in records}
    after = {record.key: (name, record) for name, part in parts.items() for record in part}
    assert before.keys() == after.keys() and sum(map(len, parts.values())) == len(records)
    for key, (name, record) in after.items():
        own = before[key]
        assert (record.image, record.text, record.digest) == (own.image, own.text, own.digest)
        assert record.attributes == own.attributes | {"role": name, "split": record.attributes["split"]}
    for name, part in parts.items():
        assert part.source == records.source and part.manifest["settings"]["a"] == 1
        assert part.manifest["settings"]["split"]["part"] == name
    assert main(["verify", str(tmp_path / "parts")]) == 0
    base = KnowledgeBase.build(records, tmp_path / "base")
    triples = build_triples(parts["train"], base, 2, tmp_path / "triples")
    assert triples.manifest["excluded"]["the record itself"] > 0


def test_by_default_a_tenth_is_held_out_and_only_a_split_is_replaced(records, tmp_path, capsys):
    assert split(records, tmp_path / "parts") == 0
    assert capsys.readouterr().out.startswith("part      of picture  records\n")
    with pytest.raises(UserError, match=r"parts is a split, .*: give .*parts/held-out or .*parts/train"):
        Records.open(tmp_path / "parts")
    again = ("--parts", "a=0.5", "b=0.5", "--overwrite")
    assert split(records, records.path, *again) == 2 and "holds records, not a split" in capsys.readouterr().err
    assert split(records, tmp_path / "parts") == 2 and "already exists" in capsys.readouterr().err
    assert split(records, tmp_path / "parts", *again) == 0
    assert sorted(path.name for path in (tmp_path / "parts").iterdir() if path.is_dir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "flavour"], "no record in * has the field 'flavour': the first one has caption, entity"),
        (["--parts", "train", "test=0.001"], "test: 0.001 of 141 groups is none: give a larger share"),
        (["--by", "entity", "--parts", "a", "b=0.99"], "no group would be left for 'b'"),
        (["--parts", "train"], "--parts: name two parts or more"),
        (["--parts", "train", "test"], "--parts: train and test have no share"),
        (["--parts", "train", "test=1"], "add up to 1, so nothing is left for train"),
        (["--parts", "a=0.5", "b=0.4"], "the shares add up to 0.9, not 1"),
        (["--parts", "a", "b=2"], "--parts b 2.0: at most 1.0 is needed"),
        (["--parts", "a", "b=x"], "--parts b=x: 'x' is no share"),
        (["--parts", "../a", "b=0.1"], "'../a' is no name of a folder"),
        (["--parts", "a", "a=0.1"], "a is named twice"),
        (["--unseen", "0.1"], "say --by which field"),
        (["--by", "entity", "--unseen", "0.5", "--rare", "0.5"], "leave nothing frequent"),
        (["--by", "entity", "--unseen", "0.5", "--parts", "a", "b=0.1"], "do one at a time"),
        (["--by", "entity", "--rare", "0.1", "--rare-below", "3"], "--rare and --rare-below both say"),
        (["--by", "entity", "--rare-below", "99"], "no entity has 99 pictures or more (the most are 9)"),
        (["--keep", "3"], "--keep is about rare entities"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(records, tmp_path, capsys, options, says):
    assert split(records, tmp_path / "parts", *options) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    begin, _, end = says.partition("*")
    assert len(error) == 1 and begin in error[0] and end in error[0]
    assert list(tmp_path.iterdir()) == []
