"""Long jobs: written batch by batch, gone on with to the same end, in shares, on several devices, in little memory."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import reimagen_jax as rj
from reimagen_jax import api
from reimagen_jax.api.drawing import BY_PYTHON
from reimagen_jax.cli import main
from reimagen_jax.errors import UserError
from reimagen_jax.files import MARK, mark
from reimagen_jax.inference import jobs
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.prompts import Prompt, PromptSource
from reimagen_jax.inference.provenance import origins
from reimagen_jax.systems.request import Neighbour
from tests.samples import encoded, picture
from tests.tiny import TINY, TINY_SR, random_params


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a base model and of the stage after it."""
    folder = tmp_path_factory.mktemp("models")
    for config in (TINY, TINY_SR):
        save_weights(folder / config.name, config, random_params(config))
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A file of seven prompts, the options that draw each twice from it, and a picture that all are drawn with."""
    folder = tmp_path_factory.mktemp("asked")
    lines = [{"text": f"prompt {i}", "negative": "ink" if i == 3 else ""} for i in range(7)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture(0, (40, 40)).save(folder / "a.png")
    reference = ["--reference", str(folder / "a.png"), "a thing"]
    return ["--prompts", str(folder / "asked.jsonl"), *reference, "--num-images", "2", "--steps", "2"]


@pytest.fixture(scope="module")
def whole(models, asked, tmp_path_factory):
    """All of it, drawn undisturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert sample(models, *asked, "--out", folder) == 0
    return folder


@pytest.fixture
def out(whole, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(whole, tmp_path / "out")


def sample(models, *args):
    return main(["sample", "--model", str(models / "tiny"), "--batch-size", "4", *map(str, args)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_command(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The files, sample.json without the command, which names the folder."""
    told = json.loads(contents["sample.json"])
    return contents | {"sample.json": json.dumps(told | {"command": ""}).encode()}


@pytest.mark.parametrize(("cascade", "error"), [(False, KeyboardInterrupt), (True, OSError)], ids=["ctrl-C", "cascade"])
def test_an_interrupted_job_ends_in_what_an_undisturbed_one_leaves(
    models, asked, whole, tmp_path, monkeypatch, cascade, error
):
    if cascade:
        asked = [*asked, "--cascade", f"{models}/tiny_sr,steps=1,batch-size=3"]
        whole = tmp_path / "whole"
        assert sample(models, *asked, "--out", whole) == 0
    expected = files(whole)
    saved, save = [], jobs.save_image

    def disturbed(path, image, origin):
        save(path, image, origin)
        saved.append(path)
        if len(saved) in (7, 13):
            (path.parent / f".{path.name}.partial").write_bytes(b"half")
            raise error("no more")

    monkeypatch.setattr(jobs, "save_image", disturbed)
    for _ in range(2):
        if error is OSError:
            with pytest.raises(OSError, match="no more"):
                sample(models, *asked, "--out", tmp_path / "out")
        else:
            assert sample(models, *asked, "--out", tmp_path / "out") == 130
        assert not (tmp_path / "out" / "sample.json").exists()
    assert sample(models, *asked, "--out", tmp_path / "out") == 0
    assert without_command(files(tmp_path / "out")) == without_command(expected)
    again = [path for path in set(saved) if saved.count(path) > 1]
    assert all(path.parent.name == "stage1" for path in again), "what the last stage has drawn is not drawn again"
    number = len(saved)
    assert sample(models, *asked, "--out", tmp_path / "out") == 0
    assert len(saved) == number, "what is done is done"


@pytest.mark.parametrize("kind", ["images", "records"])
def test_a_job_that_was_killed_as_it_began_begins_again(tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir()
    mark(out, kind)
    (out / ".job.json.partial").write_text("{")
    if kind != "images":
        with pytest.raises(UserError, match="already exists"), jobs.job_dir(out, overwrite=False):
            raise AssertionError
        return
    with jobs.job_dir(out, overwrite=False) as folder:
        (folder / jobs.JOB).write_text("{}")
    assert folder == out and {path.name for path in out.iterdir()} == {MARK, jobs.JOB}


def test_what_is_there_is_not_drawn_and_what_is_missing_is(models, asked, out, monkeypatch):
    before = files(out)
    for name in ("002-prompt-2-1.png", "006-prompt-6-0.png"):
        (out / name).unlink()
    (out / "004-prompt-4-0.png").write_bytes(b"")  # what a machine leaves that went off
    saved, save = [], jobs.save_image
    monkeypatch.setattr(jobs, "save_image", lambda path, *rest: (saved.append(path.name), save(path, *rest)))
    assert sample(models, *asked, "--out", out) == 0
    assert saved == ["002-prompt-2-1.png", "004-prompt-4-0.png", "006-prompt-6-0.png"]
    assert without_command(files(out)) == without_command(before)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--seed", "1"], "seed: 0 then, 1 now"),
        (["--eta", "0.25"], "eta: 0.5 then, 0.25 now"),
        (["--steps", "3"], "num_steps: 2 then, 3 now"),
        (["--num-images", "3"], "images of each: 2 then, 3 now"),
        (["--negative", "blur"], "prompts: "),
        (["--share", "1", "2"], "share: [1, 1] then, [1, 2] now"),
        (["--hide-paths"], 'hidden paths: nothing then, "yes" now'),
        (["--reference", "OTHER", "else"], "k: 1 then, 2 now"),
        (["--reference", "OTHER", "else"], "the references' SHA-256: "),
    ],
)
def test_another_job_is_refused_by_what_differs_and_changes_nothing(
    models, asked, whole, tmp_path, capsys, changed, said
):
    before = files(whole)
    picture(1, (40, 40)).save(tmp_path / "other.png")
    changed = [str(tmp_path / "other.png") if arg == "OTHER" else arg for arg in changed]
    capsys.readouterr()
    assert sample(models, *asked, *changed, "--out", whole) == 2
    error = capsys.readouterr().err
    assert said in error and "--overwrite" in error and error.count("\n") == 1
    assert files(whole) == before


def test_another_job_may_take_the_place(models, asked, out):
    assert sample(models, *asked, "--seed", "1", "--out", out, "--overwrite") == 0
    assert json.loads((out / "sample.json").read_text())["seed"] == 1


def test_another_batch_size_or_number_of_devices_goes_on(models, asked, out):
    before = files(out)
    (out / "002-prompt-2-1.png").unlink()
    assert sample(models, *asked, "--devices", "2", "--out", out) == 0
    assert without_command(files(out)) == without_command(before), "at the same batch a device"
    (out / "002-prompt-2-1.png").unlink()
    assert sample(models, *asked, "--batch-size", "3", "--out", out) == 0


def test_shares_are_parts_of_the_whole_on_any_number_of_devices(models, asked, whole, tmp_path):
    common = ("grid.png", "sample.json", "job.json", MARK)  # the mark names the files beside it
    whole = {name: content for name, content in files(whole).items() if name not in common}
    parts = {}
    for share, devices in ((1, 1), (2, 3)):
        out = tmp_path / f"part{share}"
        assert sample(models, *asked, "--share", share, 2, "--devices", devices, "--out", out) == 0
        part = {name: content for name, content in files(out).items() if name not in common}
        listed = [entry["file"] for entry in json.loads((out / "sample.json").read_text())["images"]]
        assert listed == sorted(name for name in part if name.endswith(".png"))
        assert not parts.keys() & part.keys()
        parts |= part
    assert parts == whole


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--share", "3", "2"], "there is no share 3 of 2"),
        (["--share", "8", "8"], "there are 7 prompts only"),
        (["--devices", "9"], "--devices 9: this machine has 8"),
    ],
)
def test_shares_and_devices_that_are_not_there_are_refused(models, asked, tmp_path, capsys, args, said):
    assert sample(models, *asked, *args, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_no_more_than_a_part_of_the_prompts_is_held(models, tmp_path, monkeypatch):
    """Whatever their number: neighbours are looked for as the images are drawn."""
    monkeypatch.setattr(jobs, "PART", 4)
    model, found, ahead, save = Model.open(models / "tiny"), [], [], jobs.save_image
    prompts = [Prompt(f"prompt {i}") for i in range(40)]

    def find(wanted):
        found.extend(wanted)
        return list(wanted)

    def saved(path, *rest):
        ahead.append(len(found) - len(ahead))
        save(path, *rest)

    monkeypatch.setattr(jobs, "save_image", saved)
    asked = PromptSource.of(prompts, find)
    pipeline = api.pipeline_of(model, prompts, 0, 2, num_steps=1)
    tell = lambda n, requests, images, keys: origins([model], pipeline, requests, images, **BY_PYTHON)  # noqa: E731
    jobs.Job(asked, pipeline, [model], 1, tell).draw(tmp_path)
    assert len(ahead) == 40 and max(ahead) <= 4 + 2 * 2


def test_python_draws_into_a_folder_what_it_draws_in_memory(models, tmp_path):
    model = rj.open_model(models / "tiny")
    file = encoded(picture(3, (16, 16)))
    hit = Neighbour(np.asarray(picture(3, (16, 16))), "a thing", 1.0, "k", file)
    prompts = [Prompt("one", (hit,)), Prompt("two")]
    drawing = rj.draw(model, prompts, num_images=2, seed=3, batch_size=4, num_steps=2)
    options = {"num_images": 2, "seed": 3, "batch_size": 4, "num_steps": 2, "devices": jax.devices()[:2]}
    rj.draw_into(tmp_path / "streamed", model, prompts, **options)
    rj.draw_into(tmp_path / "streamed", model, prompts, **options)
    drawing.save(tmp_path / "saved")
    streamed, saved = files(tmp_path / "streamed"), files(tmp_path / "saved")
    streamed.pop("job.json")
    assert (MARK in streamed) and (MARK in saved)
    streamed, saved = ({name: each[name] for name in each if name != MARK} for each in (streamed, saved))
    assert streamed == saved
    with pytest.raises(UserError, match="seed: 3 then, 4 now"):
        rj.draw_into(tmp_path / "streamed", model, prompts, **{**options, "seed": 4})


def test_the_grid_of_very_many_prompts_shows_the_first(models, tmp_path, monkeypatch):
    monkeypatch.setattr(api.drawing, "GRID_ROWS", 2)
    monkeypatch.setattr(api.drawing, "GRID_COLUMNS", 3)
    model = rj.open_model(models / "tiny")
    for number, images in ((2, 3), (9, 5)):
        prompts = [Prompt(f"prompt {i}") for i in range(number)]
        rj.draw_into(tmp_path / str(number), model, prompts, num_images=images, num_steps=1)
    few, many = (Image.open(tmp_path / name / "grid.png").size for name in ("2", "9"))
    assert few == many
