"""unCLIP's experiments: the paper's sizes, and two steps of each by the command that its header gives."""

import dataclasses
import json
import math

import jax
import pytest

from reimagen_jax import cli
from reimagen_jax.commands import train as command
from reimagen_jax.config import load_experiment, to_json
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import EXPERIMENT, Model
from reimagen_jax.pretrained.weights import WEIGHTS, save_params
from reimagen_jax.systems import kinds
from tests.trained import EXPERIMENTS, four_steps_and_parts, two_steps
from tests.training.tiny_system import same
from tests.unclip import AR_PRIOR, DECODER, PRIOR, UPSAMPLER, changed

TINY = {"prior": PRIOR, "ar_prior": AR_PRIOR, "decoder": DECODER, "upsampler": UPSAMPLER}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the headers prepare: a small EntityWorld of 128 pixels; and a prior, for its CLIP."""
    folder = tmp_path_factory.mktemp("dalle2")
    source = WorldSource(World(num_entities=8, num_images=50), resolution=128)
    write_records(source.items(), folder / "records", source=source.name)
    params = jax.jit(kinds.system_of(PRIOR).init)(jax.random.key(0))
    (folder / "clip").mkdir()
    (folder / "clip" / EXPERIMENT).write_text(to_json(PRIOR))
    save_params(folder / "clip" / WEIGHTS, params)
    return folder


@pytest.mark.parametrize("name", ["dalle2_prior", "dalle2_decoder", "dalle2_256", "dalle2_1024"])
def test_a_paper_size_experiment_trains_two_steps_by_its_headers_command(name, world):
    assert 0.01 < two_steps(name, world, "records", "clip")["loss"] < 500.0
    if name in ("dalle2_prior", "dalle2_decoder"):  # its CLIP is the other's, and did not learn
        ours, theirs = (Model.open(world / each).params["clip"] for each in (name, "clip"))
        jax.tree.map(lambda a, b: (a == b.astype(a.dtype)).all() or pytest.fail("the CLIP has learned"), ours, theirs)


@pytest.mark.parametrize(
    ("name", "millions", "papers", "away"),
    [
        ("dalle2_prior", 1225.9, 1000, 0.226),  # 24 blocks of width 2048 are 1.2B: Table 3 is rounded
        ("dalle2_decoder", 3563.2, 3500, 0.018),
        ("dalle2_256", 729.7, 700, 0.042),
        ("dalle2_1024", 282.1, 300, -0.060),
    ],
)
def test_sizes_and_how_far_they_are_from_the_papers(name, millions, papers, away):
    """Without the frozen CLIP. The pages and the presets' docstrings give these figures."""
    config = load_experiment(EXPERIMENTS / f"{name}.py")
    unet = getattr(config.system, "unet", None)  # remat and dtype change no parameter, and take time to trace
    plain = {"remat": False} if unet is None else {"unet": dataclasses.replace(unet, remat="none", dtype="float32")}
    shapes = jax.eval_shape(kinds.system_of(changed(config, **plain)).init, jax.random.key(0))
    shapes.pop("clip", None)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6
    assert round(count, 1) == millions
    assert count / papers - 1.0 == pytest.approx(away, abs=1e-3)


@pytest.mark.parametrize("name", ["prior", "ar_prior", "decoder"])
def test_4_steps_are_2_and_a_restart_and_2_bit_for_bit(name, world, tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(f"from tests.unclip import {name.upper()} as config\n")
    options = ["--data.records", str(world / "records"), "--init.weights", str(world / "clip")]
    whole, parts = four_steps_and_parts([str(path), *options], tmp_path)
    assert same(Model.open(whole).params, Model.open(parts).params)


def test_without_a_clip_nothing_is_trained(world, tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.unclip import PRIOR as config\n")
    with pytest.raises(UserError, match=r"takes its network over from weights: pass --init\.weights DIR"):
        command.main([str(path), "--workdir", str(tmp_path / "run"), "--data.records", str(world / "records")])


@pytest.fixture(scope="module")
def models(world):
    """All of them, as folders of weights, by one CLIP."""
    clip = {}
    for seed, (name, config) in enumerate(TINY.items()):
        folder = world / f"tiny_{name}"
        folder.mkdir()
        (folder / EXPERIMENT).write_text(to_json(config))
        params = jax.jit(kinds.system_of(config).init)(jax.random.key(seed))
        clip = clip or params["clip"]
        save_params(folder / WEIGHTS, params | ({"clip": clip} if "clip" in params else {}))
    return {name: str(world / f"tiny_{name}") for name in TINY}


def test_sample_draws_by_all_three_and_reproduce_draws_them_again(models, tmp_path, capsys):
    out, stages = tmp_path / "out", [models["decoder"] + ",text-weight=3,steps=2", models["upsampler"]]
    words = ["--model", models["prior"], "--cascade", *stages, "--prompt", "a cat", "--out", str(out)]
    words += ["--batch-size", "2", "--num-images", "2", "--text-weight", "2"]
    assert cli.main(["sample", *words]) == 0, capsys.readouterr().err
    pictures = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    names = [f"000-a-cat-{i}.png" for i in range(2)]
    assert pictures == sorted([*names, *(f"stage2/{name}" for name in names), "grid.png"])  # an embedding is no picture
    told = json.loads((out / "000-a-cat-0.json").read_text())
    assert [stage["guidance"] for stage in told["stages"]] == [{"text_weight": 2.0}, {"text_weight": 3.0}, {}]
    assert cli.main(["reproduce", str(out / names[0])]) == 0
    said = capsys.readouterr()
    assert "1 of 1 images are equal" in said.out + said.err


def test_sample_draws_by_an_autoregressive_prior_too(models, tmp_path, capsys):
    words = ["sample", "--model", models["ar_prior"], "--cascade", models["decoder"] + ",steps=2", "--prompt", "a cat"]
    words += ["--batch-size", "1", "--num-images", "1", "--text-weight", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    (told,) = (json.loads(path.read_text())["stages"] for path in (tmp_path / "out").glob("000-a-cat-0.json"))
    assert told[0]["guidance"] == {"text_weight": 2.0} and told[0]["sampler"]["top"] == 0.5
    assert cli.main(["reproduce", str(tmp_path / "out" / "000-a-cat-0.png")]) == 0
    said = capsys.readouterr()
    assert "1 of 1 images are equal" in said.out + said.err
    assert cli.main([*words, "--steps", "5", "--out", str(tmp_path / "none")]) == 2
    assert "--steps: this model's sampler has no such setting" in capsys.readouterr().err


def test_sample_draws_from_given_neighbours_and_from_the_text(models, world, tmp_path, capsys):
    reference = ["--reference", str(EXPERIMENTS / "figures" / "emoji_unseen.png"), "an emoji"]
    words = ["sample", "--model", models["decoder"], "--prompt", "a cat", "--batch-size", "1"]
    assert cli.main([*words, *reference, "--out", str(tmp_path / "given")]) == 0, capsys.readouterr().err
    assert cli.main([*words, "--embedding", "text", "--out", str(tmp_path / "text")]) == 0, capsys.readouterr().err
    for more, said in (
        ([], "'a cat' has none: draw by a prior"),
        (["--embedding", "text", "--eta", "0.5"], "--eta: this model's sampler has no such setting"),
        (["--embedding", "text", "--guidance", "joint"], "--guidance: this model's sampler has no such setting"),
    ):
        assert cli.main([*words, *more, "--out", str(tmp_path / "none")]) == 2
        assert said in capsys.readouterr().err
    words[2] = models["prior"]
    assert cli.main([*words, "--out", str(tmp_path / "none")]) == 2
    assert "it draws embeddings, not images; let a decoder draw from them, --cascade DECODER" in capsys.readouterr().err
