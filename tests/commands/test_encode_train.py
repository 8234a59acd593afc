"""`reimagen encode-train`: records in, an encoder out, and a knowledge base that searches by its vectors."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from reimagen_jax.cli import main
from reimagen_jax.commands.encode_train import EncodeTrain
from reimagen_jax.config import differences, is_free, load_experiment
from reimagen_jax.data import images
from reimagen_jax.data.records import Records, write_records
from reimagen_jax.encoders.vectors import open_encoder
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model, start_of
from reimagen_jax.retrieval.building import Dense
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.moco.settings import MocoConfig
from reimagen_jax.systems.request import Request
from reimagen_jax.training import loop
from tests.samples import example, records_of

CLIP32 = Path(__file__).parents[2] / "experiments" / "dalle2_clip32.py"
MOCO32 = Path(__file__).parents[2] / "experiments" / "rcg_moco32.py"
DUAL32 = Path(__file__).parents[2] / "experiments" / "dual32.py"
OPTIONS = ["--resolution", "8", "--width", "8", "--max-bytes", "16", "--num-steps", "2", "--batch-size", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `records` and the `encoder` that learned from them."""
    folder = tmp_path_factory.mktemp("trained")
    records_of(folder / "records", [f"a thing number {i}" for i in range(20)])
    assert main(["encode-train", str(folder / "records"), "--out", str(folder / "encoder"), *OPTIONS]) == 0
    return folder


def test_it_says_what_was_measured(trained, capsys):
    assert main(["encode-train", str(trained / "records"), "--out", str(trained / "other"), *OPTIONS]) == 0
    said = capsys.readouterr().out
    assert "among 2 unseen records, found" in said and "text to image" in said and "chance" in said
    card = (trained / "other" / "README.md").read_text()
    lines = said.splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("among"))
    assert "\n".join(lines[table : table + 4]) in card
    assert "reimagen encode-train" in card and str(trained) not in card.replace(str(trained / "records"), "")


def test_the_folder_tells_how_it_was_made(trained):
    encoder = open_encoder(trained / "encoder")
    assert (encoder.width, encoder.resolution) == (8, 8)
    assert encoder.facts["training"]["num_steps"] == 2 and encoder.facts["training"]["same_by"] == "caption"
    assert encoder.facts["records_fingerprint"] == Records.open(trained / "records").fingerprint


def test_it_learns_in_a_run_that_goes_on_and_of_which_an_encoder_can_be_made(trained, tmp_path, capsys):
    records, encoder = str(trained / "records"), open_encoder(trained / "encoder")
    assert {path.name for path in (trained / "encoder.run").iterdir()} >= {"run.json", "metrics.jsonl", "checkpoints"}
    again = ["encode-train", records, "--out", str(tmp_path / "again")]
    assert main([*again, "--workdir", str(trained / "encoder.run"), *OPTIONS]) == 0
    assert "holds a run of 2 steps, and so many are wanted" in capsys.readouterr().out
    assert open_encoder(tmp_path / "again").fingerprint == encoder.fingerprint
    assert main([*again, "--from-run", str(trained / "encoder.run"), "--overwrite"]) == 0
    made = open_encoder(tmp_path / "again")
    assert made.fingerprint == encoder.fingerprint and made.facts == encoder.facts
    assert "--from-run" in (tmp_path / "again" / "README.md").read_text()


def test_a_run_may_be_made_longer(trained):
    short, long = (EncodeTrain(trained / "records", trained / "out", num_steps=n).experiment() for n in (60, 6000))
    changed = differences(short, long)
    assert changed and all(is_free(short, name) for name in changed)


def test_a_run_of_reimagen_train_becomes_an_encoder(trained, tmp_path, capsys):
    words = [str(DUAL32), "--data.records", str(trained / "records"), "--workdir", str(tmp_path / "run")]
    words += ["--network.resolution", "8", "--network.width", "12", "--data.batch-size", "8", "--train.num-steps", "2"]
    assert main(["train", *words]) == 0
    made = ["--out", str(tmp_path / "encoder"), "--from-run", str(tmp_path / "run")]
    assert main(["encode-train", str(trained / "records"), *made]) == 0
    encoder = open_encoder(tmp_path / "encoder")
    assert (encoder.resolution, encoder.width, encoder.facts["training"]["num_steps"]) == (8, 12, 2)
    # The run's own folder opens as a model, like that of any system.
    stage = Model.open(tmp_path / "run").stage(batch_size=2)
    np.testing.assert_allclose(stage.draw([Request("a thing")]), encoder.texts(["a thing"]), atol=1e-6)
    assert main(["sample", "--model", str(tmp_path / "run"), "--prompt", "a thing", "--out", str(tmp_path / "no")]) == 2
    assert "run is a dual: images are drawn here by a Re-Imagen" in capsys.readouterr().err


def test_the_experiment_file_has_the_commands_settings():
    command = EncodeTrain(Path("records"), Path("encoder"))
    assert set(differences(command.experiment(), load_experiment(DUAL32))) == {"name", "data.records"}
    command = EncodeTrain(Path("records"), Path("encoder"), towers="clip", max_bytes=83, num_steps=2000)
    told = {
        "name",
        "data.records",
        "views",
        "data.views_by",
        "train.decay",
        "train.log_every",
        "train.checkpoint_every",
    }
    assert set(differences(command.experiment(), load_experiment(CLIP32))) == told


def test_a_signal_ends_it_after_saving_and_the_same_command_goes_on(trained, tmp_path, monkeypatch):
    words = ["encode-train", str(trained / "records"), "--out", str(tmp_path / "encoder"), *OPTIONS]
    steps = []

    def interrupting(*arguments, advance=loop.parallel.make_advance):
        step = advance(*arguments)

        def counted(*of_step):
            steps.append(1)
            if len(steps) == 1:
                signal.raise_signal(signal.SIGINT)
            return step(*of_step)

        return counted

    monkeypatch.setattr(loop.parallel, "make_advance", interrupting)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 128 + signal.SIGINT and not (tmp_path / "encoder").exists()
    assert main(words) == 0 and len(steps) == 2
    assert open_encoder(tmp_path / "encoder").fingerprint == open_encoder(trained / "encoder").fingerprint


def test_a_knowledge_base_searches_by_its_vectors(trained):
    encoder, records = open_encoder(trained / "encoder"), Records.open(trained / "records")
    base = KnowledgeBase.build(records, trained / "index", dense=Dense(trained / "encoder", of="text"))
    ids, scores = KnowledgeBase.open(trained / "index").search(records.texts(), 3, method="dense")
    vectors = encoder.texts(records.texts())
    np.testing.assert_allclose(scores, -np.sort(-(vectors @ vectors.T), axis=1)[:, :3], atol=1e-5)
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=1e-5)
    assert len(base) == len(ids) == 20


def test_it_trains_a_clip_whose_folder_serves_as_that_of_small_towers(trained, tmp_path, capsys):
    words = ["encode-train", str(trained / "records"), "--towers", "clip", *OPTIONS]
    assert main([*words, "--out", str(tmp_path / "clip")]) == 0
    said, card = capsys.readouterr().out, (tmp_path / "clip" / "README.md").read_text()
    assert "among 2 unseen records, found" in said and "encoder of 8 values" in said
    assert card.startswith("# A CLIP of texts and images") and "--towers clip" in card
    assert "vision transformer over 16 patches (3 blocks of width 128), and a causal transformer over 17 tokens" in card
    encoder, records = open_encoder(tmp_path / "clip"), Records.open(trained / "records")
    assert (encoder.width, encoder.resolution, encoder.config.max_tokens) == (8, 8, 17)
    assert encoder.facts["training"]["num_steps"] == 2 and encoder.facts["training"]["targets"] == "groups"
    model = Model.open(tmp_path / "clip.run", on_host=True)
    assert set(model.params) == {"clip", "log_scale"} and model.config.system.kind == "clip"
    KnowledgeBase.build(records, tmp_path / "index", dense=Dense(tmp_path / "clip", of="text"))
    _, scores = KnowledgeBase.open(tmp_path / "index").search(records.texts()[:4], 1, method="dense")
    np.testing.assert_allclose(scores, 1.0, atol=1e-5)
    assert main(["verify", str(tmp_path / "clip")]) == 0
    small = ["encode-train", str(trained / "records"), "--workdir", str(tmp_path / "clip.run"), *OPTIONS]
    assert main([*small, "--out", str(tmp_path / "other")]) == 2
    assert "clip" in capsys.readouterr().err


def test_bad_input(trained, tmp_path, capsys):
    records, out = str(trained / "records"), str(tmp_path / "out")
    others = str(records_of(tmp_path / "others", [f"another thing {i}" for i in range(20)]).path)
    for arguments, message in (
        ([records, "--out", str(trained / "encoder"), *OPTIONS], "already exists"),
        ([records, "--out", out], "too few"),
        ([records, "--out", out, "--resolution", "33"], "power of two"),
        (
            [records, "--out", out, "--towers", "clip", "--resolution", "12"],
            "12 is not a power of two",
        ),
        ([records, "--out", out, *OPTIONS, "--same-by", "breed"], "no attribute 'breed'"),
        ([str(tmp_path), "--out", out], "reimagen prepare"),
        ([records, "--out", out, "--from-run", str(tmp_path)], "run.json not found"),
        ([records, "--out", out, "--from-run", str(trained / "encoder.run"), "--width", "9"], "--width is about a"),
        ([records, "--out", out, "--workdir", str(trained / "encoder.run"), "--seed", "1", *OPTIONS], "data.seed: 0"),
        ([others, "--out", out, "--from-run", str(trained / "encoder.run")], "learned from other records"),
    ):
        assert main(["encode-train", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def moco(tmp_path_factory):
    """A folder with `records`, and a run of MoCo-v3 that has learned from them."""
    folder = tmp_path_factory.mktemp("moco")
    examples = [example(i, f"thing {i}", shape="ab"[i % 2], look=[i % 3, 7]) for i in range(40)]
    write_records(examples, folder / "records", source="test")
    words = [str(MOCO32), "--data.records", str(folder / "records"), "--workdir", str(folder / "run")]
    words += [
        "--network.resolution",
        "8",
        "--network.patch",
        "4",
        "--network.width",
        "12",
        "--network.tower.depth",
        "1",
    ]
    words += ["--network.tower.width", "16", "--network.head-width", "16", "--predictor-width", "16"]
    words += ["--data.batch-size", "8", "--data.validation-share", "0.3", "--train.num-steps", "2"]
    assert main(["train", *words]) == 0
    return folder


def test_a_run_of_moco_becomes_an_encoder_of_images_alone(moco, capsys):
    words = ["encode-train", str(moco / "records"), "--from-run", str(moco / "run"), "--out", str(moco / "encoder")]
    assert main([*words, "--probe", "shape", "look.0"]) == 0
    said, card = capsys.readouterr().out, (moco / "encoder" / "README.md").read_text()
    table = said[said.index("told right of 12 unseen") : said.index("encoder of 12 values")]
    assert table.strip() in card and "random" in table and "  look.0" in table and "--probe" in card
    assert card.startswith("# An encoder of images") and "a vision transformer over 4 patches" in card.lower()
    encoder, records = open_encoder(moco / "encoder"), Records.open(moco / "records")
    assert (encoder.width, encoder.resolution) == (12, 8) and encoder.facts["training"]["objective"] == "moco"
    shares = encoder.facts["measured"]["probes"]["shape"]
    assert set(shares) == {"representation", "features", "random", "chance"}
    assert all(0.0 <= share <= 1.0 for share in shares.values())
    run = Model.open(moco / "run", on_host=True).params["encoder"]
    for part in ("tower", "head"):
        jax.tree.map(np.testing.assert_array_equal, run[part], encoder.params[part])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(encoder.params["statistics"]["head"]["norm2"]["bn"]["mean"]))
    pictures = np.stack([images.decode(record.image, 8) for record in records.fetch(range(6))])
    np.testing.assert_allclose(np.linalg.norm(encoder.images(pictures), axis=1), 1.0, rtol=1e-5)
    with pytest.raises(UserError, match="reads images alone"):
        encoder.texts(["a thing"])
    assert main(["verify", str(moco / "encoder")]) == 0
    # What holds it frozen begins with these settings and parameters.
    settings, params = start_of(moco / "encoder")
    assert isinstance(settings, MocoConfig) and settings.network == encoder.config
    assert set(params()) == {"tower", "head", "statistics"}


def test_the_same_run_is_the_same_encoder_without_probes(moco, tmp_path, capsys):
    words = ["encode-train", str(moco / "records"), "--from-run", str(moco / "run"), "--out", str(tmp_path / "again")]
    assert main(words) == 0
    assert "nothing was probed" in capsys.readouterr().out
    assert "Measured" not in (tmp_path / "again" / "README.md").read_text()
    assert open_encoder(tmp_path / "again").fingerprint == open_encoder(moco / "encoder").fingerprint


def test_bad_input_about_an_encoder_of_images(moco, trained, tmp_path, capsys):
    records, out = str(moco / "records"), ["--out", str(tmp_path / "out")]
    run = ["--from-run", str(moco / "run")]
    for arguments, message in (
        ([records, *out, *run, "--probe", "breed"], "has no attribute 'breed': it has shape, look"),
        ([records, *out, *run, "--probe", "look.1"], "--probe look.1: all records have the same, '7'"),
        ([records, *out, *run, "--width", "9"], "--width is about a training"),
        ([str(trained / "records"), *out, *run], "learned from other records"),
        ([str(trained / "records"), *out, "--from-run", str(trained / "encoder.run"), "--probe", "a"], "MoCo-v3"),
    ):
        assert main(["encode-train", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
