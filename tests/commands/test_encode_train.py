"""`reimagen encode-train`: records in, an encoder out, and a knowledge base that searches by its vectors."""

import numpy as np
import pytest

from reimagen_jax.cli import main
from reimagen_jax.data.records import Records
from reimagen_jax.encoders.vectors import open_encoder
from reimagen_jax.retrieval.building import Dense
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import records_of

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
    assert said.splitlines()[1] in card
    assert "reimagen encode-train" in card and str(trained) not in card.replace(str(trained / "records"), "")


def test_the_folder_tells_how_it_was_made(trained):
    encoder = open_encoder(trained / "encoder")
    assert (encoder.width, encoder.resolution) == (8, 8)
    assert encoder.facts["training"]["num_steps"] == 2 and encoder.facts["training"]["same_by"] == "caption"
    assert encoder.facts["records_fingerprint"] == Records.open(trained / "records").fingerprint


def test_a_knowledge_base_searches_by_its_vectors(trained):
    encoder, records = open_encoder(trained / "encoder"), Records.open(trained / "records")
    base = KnowledgeBase.build(records, trained / "index", dense=Dense(trained / "encoder", of="text"))
    ids, scores = KnowledgeBase.open(trained / "index").search(records.texts(), 3, method="dense")
    vectors = encoder.texts(records.texts())
    np.testing.assert_allclose(scores, -np.sort(-(vectors @ vectors.T), axis=1)[:, :3], atol=1e-5)
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=1e-5)
    assert len(base) == len(ids) == 20


def test_bad_input(trained, tmp_path, capsys):
    records, out = str(trained / "records"), str(tmp_path / "out")
    for arguments, message in (
        ([records, "--out", str(trained / "encoder"), *OPTIONS], "already exists"),
        ([records, "--out", out], "too few"),
        ([records, "--out", out, "--resolution", "33"], "power of two"),
        ([records, "--out", out, *OPTIONS, "--same-by", "breed"], "no attribute 'breed'"),
        ([str(tmp_path), "--out", out], "reimagen prepare"),
    ):
        assert main(["encode-train", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
