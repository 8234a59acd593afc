"""`reimagen triples`: what it writes and says, and what it refuses."""

import json

import pytest

from reimagen_jax.cli import main
from reimagen_jax.data.records import Records
from reimagen_jax.retrieval.triples import Triples


def build(world, out, *options) -> int:
    places = [f"{world}/records", "--knowledge-base", f"{world}/index", "--out", str(out)]
    return main(["triples", *places, *options])


def test_counts_and_lists_what_is_left_out(world, tmp_path, capsys):
    assert build(world, tmp_path / "t", "--exclude-same", "entity", "--query-by", "entity", "caption") == 0
    said = capsys.readouterr().out
    triples = Triples.open(tmp_path / "t")
    entities = [record.attributes["entity"] for record in triples.records]
    places = {key: i for i, key in enumerate(triples.records.keys())}
    left_out = list(triples.excluded())
    assert any(each.reason == "same entity" for each in left_out)
    for each in left_out:
        itself, same = each.record == each.left_out, entities[places[each.record]] == entities[places[each.left_out]]
        assert (each.reason == "the record itself") == itself
        assert (each.reason == "same entity") == (same and not itself)
    for reason, count in triples.manifest["excluded"].items():
        assert sum(each.reason == reason for each in left_out) == count
        assert (f"{count} candidates left out: {reason}" in said) == (count > 0)
    assert f"listed in {tmp_path / 't' / 'excluded.jsonl'}" in said
    for name, nbr_K in zip(entities, triples.neighbours, strict=True):
        assert all(entities[n] != name for n in nbr_K if n >= 0)


@pytest.mark.parametrize("kind", ["random", "wrong", "oracle"])
def test_neighbours_for_ablations(world, tmp_path, capsys, kind):
    assert build(world, tmp_path / "t", "--neighbours", kind, "--seed", "5", "--num-neighbours", "1") == 0
    assert f"up to 1 {kind} neighbours" in capsys.readouterr().out
    triples = Triples.open(tmp_path / "t")
    assert (triples.manifest["neighbours"], triples.manifest["seed"]) == (kind, 5)
    shown = [record.attributes for record in Records.open(world / "records")]
    pairs = [(shown[i], shown[n]) for i, n in enumerate(triples.neighbours[:, 0].tolist()) if n >= 0]
    assert len(pairs) > len(triples) / 2
    if kind != "random":
        assert all((own["entity"] == other["entity"]) == (kind == "oracle") for own, other in pairs)
        assert all(own["category"] == other["category"] for own, other in pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-neighbours", "0"], "--num-neighbours 0"),
        (["--query-by", "flavour"], "has no attribute 'flavour'"),
        (["--query-by", "entitty"], "to be asked by: it has caption, entity, entity_index, category, "),
        (["--query-by", "entitty"], "(did you mean entity?)"),
        (["--exclude-same", "flavour"], "has the attribute 'flavour'"),
        (["--near-duplicates", "2"], "--near-duplicates 2.0"),
        (["--neighbours", "wrong", "--entity-field", "flavour"], "has the attribute 'flavour'"),
        (["--neighbours", "random", "--query-by", "entity"], "drawn without a search"),
        (["--method", "dense"], "no vectors"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(world, tmp_path, capsys, options, message):
    assert build(world, tmp_path / "t", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_triples(world, tmp_path):
    assert build(world, tmp_path / "t") == 0
    before = json.loads((tmp_path / "t" / "manifest.json").read_text())
    assert build(world, tmp_path / "t", "--overwrite", "--exclude-same", "flavour") == 2
    assert json.loads((tmp_path / "t" / "manifest.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
