"""From Python: the README's block runs as it stands, and what it draws is what the command draws."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reimagen_jax as rj
from reimagen_jax.cli import main
from reimagen_jax.errors import UserError
from reimagen_jax.inference.prompts import Prompt

ROOT = Path(__file__).parents[1]
WORLD = ["--world.num-entities", "32", "--world.num-images", "200", "--resolution", "32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a knowledge base of EntityWorld in it, where the README has one."""
    folder = tmp_path_factory.mktemp("python")
    assert main(["prepare", "--out", str(folder / "runs/world/all"), *WORLD]) == 0
    assert main(["index", str(folder / "runs/world/all"), "--out", str(folder / "runs/world/index")]) == 0
    return folder


def test_the_readmes_block_runs_and_leaves_pictures_with_their_provenance(folder, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- from-python -->.*?```python\n(.*?)```.*?<!-- /from-python -->", text, re.DOTALL)
    assert len(block.splitlines()) <= 16, "a dozen lines, and a few empty ones"
    # The README's entity is one of the whole world's; the small world has others.
    name = next(iter(rj.open_knowledge_base(folder / "runs/world/index").records)).attributes["entity"]
    assert "Dasafux" in block
    monkeypatch.chdir(folder)
    known = {}
    exec(compile(block.replace("Dasafux", name), "README.md", "exec"), known)
    drawing = known["drawing"]
    facts = json.loads((folder / "runs/drawn/sample.json").read_text())
    for entry, image in zip(facts["images"], drawing.stages[-1], strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / "runs/drawn" / entry["file"])), image)
        assert len(entry["neighbours"]) == 2 and entry["eta"] == 0.5
    assert facts["model"]["SHA-256"] == drawing.models[0].digest and facts["seed"] == 0
    page = (folder / "runs/sweep/report.html").read_text(encoding="utf-8")
    assert all(prompt.text in page for prompt in drawing.prompts)
    assert json.loads((folder / "runs/sweep/sweep.json").read_text())["etas"] == [0, 0.5, 1]


def test_python_and_the_command_draw_the_same(folder):
    text = "a quiet dog on a hill"
    base = rj.open_knowledge_base(folder / "runs/world/index")
    drawing = rj.draw(rj.open_model("shipped"), rj.ask(base, [text]), num_images=2, seed=3, num_steps=2, batch_size=4)
    sample = ["sample", "--model", "shipped", "--prompt", text, "--knowledge-base", str(base.path), "--num-images", "2"]
    sample += ["--seed", "3", "--steps", "2", "--batch-size", "4", "--out", str(folder / "command")]
    assert main(sample) == 0
    entries = json.loads((folder / "command/sample.json").read_text())["images"]
    drawn = [np.asarray(Image.open(folder / "command" / entry["file"])) for entry in entries]
    assert np.array_equal(np.stack(drawn), drawing.image_PSHWC[0])


def test_what_is_asked_wrongly_is_refused(folder):
    base, model = rj.open_knowledge_base(folder / "runs/world/index"), rj.open_model()
    with pytest.raises(UserError, match="1 queries for 2 prompts"):
        rj.ask(base, ["a dog", "a cat"], queries=["dog"])
    prompts = rj.ask(base, ["a dog"], k=1)
    with pytest.raises(UserError, match=r"eta is 1\.5: at most 1"):
        rj.draw(model, prompts, eta=1.5)


def test_a_prompt_keeps_the_query_that_it_brings(folder):
    base = rj.open_knowledge_base(folder / "runs/world/index")
    name = next(iter(base.records)).attributes["entity"]
    (brought,) = rj.ask(base, [Prompt("something in the snow", query=name)])
    (asked,) = rj.ask(base, ["something in the snow"], queries=[name])
    assert brought.query == name and brought.neighbours
    assert [hit.key for hit in brought.neighbours] == [hit.key for hit in asked.neighbours]


def test_no_room_for_neighbours_is_the_baseline(folder):
    base, model = rj.open_knowledge_base(folder / "runs/world/index"), rj.open_model()
    asked, alone = rj.ask(base, ["a dog"], k=1), rj.ask(base, ["a dog"], k=0)
    assert asked[0].neighbours and not alone[0].neighbours
    drawn = [rj.draw(model, prompts, num_steps=2, k=0, batch_size=1).image_PSHWC for prompts in (asked, alone)]
    assert np.array_equal(*drawn)


def test_importing_the_package_brings_nothing_along():
    heavy = {"jax", "numpy", "flax", "tyro", "tensorflow_datasets"}
    code = f"import reimagen_jax, sys; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert {"open_model", "draw", "sweep", "ask"} <= set(dir(rj))
    with pytest.raises(AttributeError, match="no attribute 'dream'"):
        _ = rj.dream


def test_a_grid_from_python_goes_on_in_its_folder_and_is_saved_with_its_images(folder, tmp_path):
    base = rj.open_knowledge_base(folder / "runs/world/index")
    name = next(iter(base.records)).attributes["entity"]
    prompts, model = rj.ask(base, [f"a dog {name}"], queries=[name], k=1), rj.open_model("shipped")
    over = {"eta": (0, 1), "words": ("dog", "bird")}
    swept = rj.sweep(model, prompts, over=over, out=tmp_path / "grid", num_steps=2, batch_size=4)
    assert swept.images(1).shape == (1, 1, 32, 32, 3) and len(swept.table.results) == 4 and swept.table.best is None
    stored = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "grid/images").iterdir()}
    again = rj.sweep(model, prompts, over=over, out=tmp_path / "grid", num_steps=2, batch_size=4)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "grid/images").iterdir()} == stored
    plain = rj.sweep(model, prompts, (0, 1), out=tmp_path / "etas", num_steps=2, batch_size=4)
    of_dogs = [point.keys[0] for point in swept.report.grid.points if point.values["words"] == "dog"]
    for key, image in zip(of_dogs, plain.image_PSCHWC[0, 0, 1:], strict=True):
        np.testing.assert_array_equal(image, swept.report.images[key], "a sweep over eta draws what a grid draws")
        assert (tmp_path / "etas/images" / f"{key}.png").is_file()
    again.save(tmp_path / "saved")
    names = ({path.name for path in (tmp_path / place).rglob("*")} for place in ("grid", "saved"))
    assert next(names) == next(names)
    with pytest.raises(UserError, match="method needs a base"):
        rj.sweep(model, prompts, over={"method": ("lexical",)})
    with pytest.raises(UserError, match="etas and over are both given"):
        rj.sweep(model, prompts, (0, 1), over=over)
    with pytest.raises(UserError, match=r"over: eta is 2\.0: at most 1"):
        rj.sweep(model, prompts, over={"eta": (0, 2)})
