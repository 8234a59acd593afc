"""No command replaces, or goes on in, a folder of another kind, of another command, or with files of others."""

import dataclasses
import os
import re
import time

import numpy as np
import pytest
import tyro
from PIL import Image

from reimagen_jax import files
from reimagen_jax.cli import main
from reimagen_jax.commands import usage
from reimagen_jax.commands.train import unnamed
from reimagen_jax.errors import UserError
from reimagen_jax.training.checkpoint import claim
from tests.commands.test_usage import LEAVES

DRAWN = "--model {model} --prompt cat --out {out} --overwrite"
COMMANDS = {
    "prepare": ("records", "--source {photos} --out {out} --overwrite"),
    "split": ("split", "{records} --out {out} --overwrite"),
    "encode-train": ("encoder", "{records} --out {out} --num-steps 1 --overwrite"),
    "index": ("knowledge base", "{records} --out {out} --overwrite"),
    "triples": ("triples", "{records} --knowledge-base {index} --out {out} --overwrite"),
    "distill": ("weights", "--model {model} --triples {index} --out {out} --overwrite"),
    "export": ("weights", "{model} --out {out} --overwrite"),
    "sample": ("images", DRAWN),
    "edit image": ("images", f"{DRAWN} --image {{image}}"),
    "edit inpaint": ("images", f"{DRAWN} --image {{image}} --mask {{image}}"),
    "edit outpaint": ("images", f"{DRAWN} --image {{image}}"),
    "edit vary": ("images", DRAWN),
    "edit interpolate": ("images", f"{DRAWN} --reference {{image}} a --reference {{image}} b"),
    "edit swap": ("images", f"{DRAWN} --to-prompt dog"),
    "unclip vary": ("images", "{image} --model {model} --out {out} --overwrite"),
    "unclip blend": ("images", "{image} {image} --model {model} --out {out} --overwrite"),
    "unclip diff": ("images", "{image} --to dog --model {model} --out {out} --overwrite"),
    "unclip components": ("images", "{image} --records {records} --model {model} --out {out} --overwrite"),
    "rcg draw": ("images", "--model {model} --out {out} --overwrite"),
    "rcg reconstruct": ("images", "{image} --model {model} --out {out} --overwrite"),
    "rcg interpolate": ("images", "{image} {image} --model {model} --out {out} --overwrite"),
    "augment": ("records", "{records} --model {model} --out {out} --overwrite"),
    "reproduce": ("reproduction", "{image} --out {out} --overwrite"),
    "seedselect": ("seeds", f"{DRAWN} --encoder {{encoder}} --reference {{image}} a"),
    "sweep": ("sweep", f"{DRAWN} --reference {{image}} a"),
    "evaluate pictures": (
        "evaluation of pictures",
        "--model {model} --records {records} --knowledge-base {index} --encoder {encoder} --out {out}",
    ),
    "evaluate entities": ("evaluation", "--model {model} --knowledge-base {index} --out {out}"),
    "evaluate answers": ("evaluation", "--model {model} --knowledge-base {index} --out {out}"),
    "evaluate seedselect": (
        "evaluation",
        "--model {model} --knowledge-base {index} --encoder {encoder} --out {out}",
    ),
    "evaluate people": ("pictures to judge", "--model {model} --knowledge-base {index} --out {out} --overwrite"),
    "evaluate fewshot": ("evaluation of few shots", "{records} --out {out}"),
    "evaluate longtail": ("evaluation of few shots", "{records} --out {out}"),
    "evaluate coco": (
        "protocol's evaluation",
        "--captions {coco} --pictures {photos} --model {model} --out {out}",
    ),
    "evaluate wiki": ("protocol's evaluation", "--pictures {photos} --model {model} --out {out}"),
    "rate serve": ("human ratings", "ours={model} --out {out}"),
    "rate results": ("results of ratings", "{records} --out {out} --overwrite"),
    "report page": ("page of results", "{records} --out {out} --overwrite"),
    "rater train": ("rater", "--out {out} --num-steps 1 --overwrite"),
    "demo": ("demonstration", "--model {model} --out {out}"),
}
"""Command -> the kind of folder that it writes, and its options. Those of GROWING go on there."""
TO_A_FILE = ("evaluate fid", "evaluate drawn", "evaluate scores", "evaluate statistics", "rate export", "report keep")
"""Commands whose --out is one file."""
GROWING = ("seedselect", "evaluate pictures", "evaluate entities", "evaluate answers", "evaluate seedselect")
GROWING += ("evaluate fewshot", "evaluate longtail", "evaluate coco", "evaluate wiki", "rate serve")


@pytest.fixture(scope="module")
def places(tmp_path_factory, model, world, tiny_encoder):
    """What the commands read."""
    folder = tmp_path_factory.mktemp("places")
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "image.png")
    (folder / "photos").mkdir()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(folder / "photos" / "a.png")
    (folder / "photos" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}\n')
    (folder / "coco.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "id": 1, "caption": "a cat"}]}'
    )
    named = {
        "coco": folder / "coco.json",
        "photos": folder / "photos",
        "image": folder / "image.png",
        "encoder": tiny_encoder,
    }
    return named | {"model": model, "records": world / "records", "index": world / "index"}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def made(target, kind, command, *more):
    """A folder of a kind, as the command leaves it; and files that somebody puts there afterwards."""
    with files.made_by(f"reimagen {command}"), files.atomic_dir(target, kind=kind) as folder:
        (folder / "precious").write_text("of many hours")
    for name in more:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine")
    return target


def line_of(command, places, out):
    options = COMMANDS[command][1].format(**places, out=out)
    return [*command.split(), *options.split()]


def test_all_commands_that_write_a_folder_are_here():
    writes = [name for name, kind in LEAVES.items() if "out" in [item.name for item in dataclasses.fields(kind)]]
    assert list(COMMANDS) == [name for name in writes if name not in TO_A_FILE] and set(TO_A_FILE) < set(writes)
    kept = [name for name, kind in LEAVES.items() if name in COMMANDS and not hasattr(kind, "overwrite")]
    evaluations = [f"evaluate {name}" for name in ("pictures", "entities", "answers", "seedselect")]
    evaluations += [f"evaluate {name}" for name in ("fewshot", "longtail", "coco", "wiki")]
    assert kept == [*evaluations, "rate serve", "demo"]


STATES = ("another kind", "another command", "files of others", "a run within", "a training run", "somebody's folder")
WITHIN = ("files of others", "a run within")


def test_help_says_what_is_replaced_and_what_is_kept():
    told = {
        words: " ".join(option.told.split())
        for words, kind in LEAVES.items()
        for option in usage.options_of(kind, unnamed() if words == "train" else tyro.MISSING)
        if option.name == "overwrite" and words not in TO_A_FILE
    }
    assert len(told) > 10
    for words, text in told.items():
        assert (
            "if this command wrote it" in text and "one of another kind, or with other files in it, is kept" in text
        ), words


@pytest.mark.parametrize(
    ("command", "state"),
    # What goes on in a folder replaces nothing there, and leaves files of others alone (tests/test_files.py).
    [(command, state) for command in COMMANDS for state in STATES if command not in GROWING or state not in WITHIN],
)
def test_what_is_not_the_same_is_kept(command, state, places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, out = COMMANDS[command][0], tmp_path / "out"
    if state == "another kind":
        made(out, "weights" if kind == "records" else "records", command)
        said = f"out holds {'weights' if kind == 'records' else 'records'}, not "
    elif state == "another command":
        made(out, kind, "other")
        said = f"out was made by `reimagen other`, not by `reimagen {command}`, so it is kept"
    elif state == "files of others":
        made(out, kind, command, "notes.txt", "thesis.tex")
        said = "out holds notes.txt, thesis.tex, which it was not written with, so it is kept"
    elif state == "a run within":
        made(out, kind, command, "mine/run.json")
        said = "out holds mine/run.json, which it was not written with, so it is kept"
    elif state == "a training run":
        (out / "checkpoints" / "1").mkdir(parents=True)
        (out / "run.json").write_text("{}")
        said = "out holds a run, not " if command in GROWING else "out holds a training run, which no command replaces"
    else:
        out.mkdir()
        (out / "photo.jpg").write_text("mine")
        said = "something that this program did not write" if command in GROWING else "was not written by this program"
    before = content(out)
    status, errors = main(line_of(command, places, out)), capsys.readouterr().err
    assert (status, errors.count("\n")) == (2, 1) and said in errors
    assert content(out) == before


@pytest.mark.parametrize("command", ["prepare", "index", "triples", "export"])
def test_the_same_is_replaced_and_that_is_said(command, places, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = made(tmp_path / "out", COMMANDS[command][0], command)
    (out / "Thumbs.db").touch()  # of a system that showed the folder
    mark = out / files.MARK
    os.utime(mark, (0, time.mktime((2026, 1, 2, 3, 4, 0, 0, 0, -1))))
    assert main(line_of(command, places, out)) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("replacing ")]
    what = f"{files.called(COMMANDS[command][0])} of 0.0 MiB, made 2026-01-02 03:04 by `reimagen {command}`"
    assert said == [f"replacing {out} once the new one is complete: {what}"]
    assert not (out / "precious").exists()
    assert main(line_of(command, places, out)) == 0  # what it has written itself is not foreign


def test_a_training_is_begun_in_an_empty_folder_alone(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}.jpg").write_text("mine")
    said = f"{tmp_path} holds a.jpg, b.jpg, c.jpg and 2 more, of no training run: choose another --workdir"
    with pytest.raises(UserError, match=re.escape(said)), claim(tmp_path):
        pytest.fail("the block must not run")
    assert len(content(tmp_path)) == 5
    made(tmp_path / "records", "records", "prepare")
    with pytest.raises(UserError, match="holds records, not a training run"), claim(tmp_path / "records"):
        pytest.fail("the block must not run")
    (tmp_path / "killed" / "checkpoints").mkdir(parents=True)
    with claim(tmp_path / "killed"), claim(tmp_path / "new"):
        pass
