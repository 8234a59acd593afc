"""`reimagen encode-train`: records in, an encoder out, and a knowledge base that searches by its vectors."""

import signal
from pathlib import Path

import numpy as np
import pytest

from reimagen_jax.cli import main
from reimagen_jax.commands.encode_train import EncodeTrain
from reimagen_jax.config import differences, is_free, load_experiment
from reimagen_jax.data.records import Records
from reimagen_jax.encoders.vectors import open_encoder
from reimagen_jax.inference.model import Model
from reimagen_jax.retrieval.building import Dense
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Request
from reimagen_jax.training import loop
from tests.samples import records_of

CLIP32 = Path(__file__).parents[2] / "experiments" / "dalle2_clip32.py"
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
    told = {"name", "data.records", "train.decay", "train.log_every", "train.checkpoint_every"}
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
