"""`reimagen verify`: whole folders pass, of others the damage is named; another kind of folder is not replaced."""

import json
import shutil

import jax
import numpy as np
import pytest

from reimagen_jax.cli import main
from reimagen_jax.data.records import Records
from reimagen_jax.encoders import dual
from reimagen_jax.encoders.settings import DualConfig
from reimagen_jax.encoders.text_embeddings import embed_records
from reimagen_jax.inference.export import export
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.fake_encoder import FROZEN, FakeEncoder
from tests.samples import records_of
from tests.tiny import TINY

TEXTS = ["a red cat", "a blue dog", "a red bird", "a green fish"]


def zeros(init):
    """Parameters without the time that drawing them takes."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(init, jax.random.key(0)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind that has checksums."""
    root = tmp_path_factory.mktemp("folders")
    records = records_of(root / "records", TEXTS)
    KnowledgeBase.build(records, root / "base")
    said = main(
        ["triples", str(root / "records"), "--knowledge-base", str(root / "base"), "--out", str(root / "triples")]
    )
    assert said == 0
    embed_records([records], FakeEncoder(), FROZEN, root / "text")
    config = DualConfig(resolution=8, width=4, text_width=32, text_depth=1, channels=8)
    (root / "encoder").mkdir()
    dual.DualEncoder(config, zeros(lambda key: dual.init(config, key)), {}).save(root / "encoder")
    (root / "weights").mkdir()
    export(root / "weights", TINY, zeros(ReImagen(TINY).init))
    return root


KINDS = ["records", "base", "triples", "text", "encoder", "weights"]


def copied(folders, tmp_path):
    """All of them, with the folders that they refer to."""
    return shutil.copytree(folders, tmp_path / "copy")


@pytest.mark.parametrize("command", [["verify"], ["index", "--verify"]])
def test_whole_folders(folders, capsys, command):
    assert main([*command, *(str(folders / kind) for kind in KINDS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(KINDS)
    for kind, line in zip(KINDS, lines, strict=True):
        assert line.startswith(f"{folders / kind} is whole: ")
        assert "all checksums" in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_bit_in_any_file_is_named(folders, tmp_path, capsys, kind):
    root = copied(folders, tmp_path)
    draw = np.random.default_rng(0)
    for path in sorted((root / kind).iterdir()):
        free = path.name in (".reimagen_jax", "README.md", "experiment.json", "text_embeddings.json")  # see the notes
        free = free or path.name in ("serving.tsv", "triples.png")  # for people to look at: nothing reads them
        if free or not path.stat().st_size:
            continue
        content = path.read_bytes()
        for bit in draw.integers(0, 8 * len(content), 8):
            changed = bytearray(content)
            changed[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(changed)
            assert main(["verify", str(root / kind)]) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ")
            assert str(root / kind) in said
        path.write_bytes(content)
    assert main(["verify", str(root / kind)]) == 0


@pytest.mark.parametrize("command", [["verify"], ["index", "--verify"]])
def test_all_folders_are_checked_and_all_that_is_wrong_is_told(folders, tmp_path, capsys, command):
    root = copied(folders, tmp_path)
    (root / "text" / "text_embeddings.json").unlink()
    (root / "encoder" / "weights.safetensors").write_bytes(b"")
    names = [str(root / kind) for kind in ("text", "records", "nowhere", "encoder", "base")]
    assert main([*command, *names]) == 2
    said = capsys.readouterr()
    whole = [line.split(" is whole: ")[0] for line in said.out.splitlines()]
    assert whole == [names[1], names[4]]
    *each, last = said.err.splitlines()
    damaged = [names[0], names[2], names[3]]
    assert [line.split(" is not whole: ")[0] for line in each] == damaged
    assert last == f"error: 3 of 5 folders are not whole: {', '.join(damaged)}"


def test_all_parts_of_a_split_are_checked(folders, tmp_path, capsys):
    parts = tmp_path / "parts"
    assert main(["split", str(folders / "records"), "--out", str(parts), "--parts", "a=0.25", "b=0.25", "c=0.5"]) == 0
    for name in ("a", "c"):
        (parts / name / "manifest.json").write_text("{}")
    assert main(["verify", str(parts)]) == 2
    said = capsys.readouterr().err
    assert str(parts / "a") in said and str(parts / "c") in said and str(parts / "b") not in said


def test_what_cannot_be_verified(tmp_path, capsys):
    for name, content, said in (
        ("nowhere", None, "no folder"),
        ("theirs", {"thesis.tex": "x"}, "nothing that `reimagen` knows"),
        ("drawn", {"sample.json": "{}"}, "images, of which no checksums are kept"),
    ):
        for file, text in (content or {}).items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(text)
        assert main(["verify", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("records", ["index", "{root}/records", "--out", "{copy}"]),
        ("triples", ["index", "{root}/base", "--merge", "--out", "{copy}"]),
        ("base", ["prepare", "--resolution", "16", "--out", "{copy}"]),
        ("weights", ["triples", "{root}/records", "--knowledge-base", "{root}/base", "--out", "{copy}"]),
        ("base", ["export", "{root}/weights", "--out", "{copy}"]),
        ("records", ["sample", "--model", "{root}/weights", "--prompt", "a", "--out", "{copy}"]),
        ("encoder", ["rater", "train", "--out", "{copy}"]),
        ("text", ["encode-train", "{root}/records", "--out", "{copy}"]),
    ],
)
def test_a_folder_of_another_kind_is_kept(folders, tmp_path, capsys, kind, command):
    copy = shutil.copytree(folders / kind, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    if ".reimagen_jax" not in before:
        (copy / ".reimagen_jax").touch()  # as of an older version
    assert main([part.format(root=folders, copy=copy) for part in command] + ["--overwrite"]) == 2
    assert "so it is kept: choose another --out" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {".reimagen_jax": b""} | before


def test_evaluation_goes_on_with_nothing_but_an_evaluation(folders, tmp_path, capsys):
    copy = shutil.copytree(folders / "records", tmp_path / "copy")
    command = ["evaluate", "entities", "--model", str(folders / "weights"), "--knowledge-base", str(folders / "base")]
    assert main([*command, "--out", str(copy)]) == 2
    assert "holds records, not an evaluation to go on with" in capsys.readouterr().err


def test_appending_what_is_there_leaves_nothing_to_do(folders, tmp_path, capsys):
    root = copied(folders, tmp_path)
    records_of(tmp_path / "more", ["a red fox"], first_seed=9)
    append = ["index", str(tmp_path / "more"), "--append-to", str(root / "base")]
    assert main(append) == 0
    assert "5 records" in capsys.readouterr().out
    before = json.loads((root / "base" / "manifest.json").read_text())
    assert main(append) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert json.loads((root / "base" / "manifest.json").read_text()) == before
    assert main(["index", str(root / "base"), "--delete", "k9"]) == 0
    assert main(append) == 0
    assert KnowledgeBase.open(root / "base").keys() == ["k0", "k1", "k2", "k3", "k9"]


def test_preparing_what_is_there_leaves_nothing_to_do(tmp_path, capsys):
    world = ["--world.num-entities", "10", "--world.num-images", "60", "--resolution", "16"]
    prepare = ["prepare", "--out", str(tmp_path / "r"), "--where", "split=rare", *world]
    assert main(prepare) == 0
    written = Records.open(tmp_path / "r").manifest
    capsys.readouterr()
    assert main(prepare) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert Records.open(tmp_path / "r").manifest == written
    assert main([*prepare, "--world.seed", "1"]) == 2
    assert "already exists" in capsys.readouterr().err
