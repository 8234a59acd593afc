"""Embedded captions: what is read is what the encoder said; each text once; a run that was killed goes on."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from reimagen_jax.data.records import Records
from reimagen_jax.encoders import text_embeddings
from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.encoders.text_embeddings import TextEmbeddings, embed_records, estimate, keys_of
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.systems.reimagen.batches import make_dataset
from reimagen_jax.systems.reimagen.settings import TriplesConfig
from tests.fake_encoder import FROZEN, FakeEncoder
from tests.samples import records_of
from tests.tiny import TINY, changed

TEXTS = ["a red cat", "A Red Cat", "a blue dog in the city at noon", "two", "two", "", "Ünïcödé 猫"]


@dataclass(frozen=True, eq=False)
class Said(Records):
    """Stands for records, of which nothing but the captions is read."""

    captions: tuple[str, ...] = ()

    def texts(self):
        return list(self.captions)


def said(texts, fingerprint="captions"):
    return Said(Path("records"), {"fingerprint": fingerprint}, tuple(texts))


@pytest.mark.parametrize("padding", ["masked", "kept"])
def test_what_is_read_is_what_the_encoder_said(tmp_path, padding):
    settings, encoder = replace(FROZEN, padding=padding), FakeEncoder()
    store = embed_records([said(TEXTS)], encoder, settings, tmp_path / "out", shard_bytes=100)
    embedding_NLD, mask_NL = store.fetch(TEXTS, settings)
    expected, tokens = FakeEncoder().encode(TEXTS, padding="zero" if padding == "masked" else "encoded")
    np.testing.assert_array_equal(embedding_NLD, expected)
    assert embedding_NLD.dtype == expected.dtype
    np.testing.assert_array_equal(mask_NL, tokens if padding == "masked" else np.ones_like(tokens))
    assert sorted(encoder.asked) == sorted(set(TEXTS)), "each text is embedded once"
    assert len(list((tmp_path / "out").glob("*.texts.npy"))) > 1, "over several shards"


def test_lowered_texts_are_one_text(tmp_path):
    settings, encoder = replace(FROZEN, lowercase=True), FakeEncoder()
    embed_records([said(TEXTS)], encoder, settings, tmp_path / "out")
    assert sorted(encoder.asked) == sorted({text.lower().strip() for text in TEXTS})


def test_a_run_that_was_killed_goes_on(tmp_path, monkeypatch):
    texts, out = [f"text number {i}" for i in range(40)], tmp_path / "out"
    monkeypatch.setattr(text_embeddings, "_BLOCK", 4)

    class Dying(FakeEncoder):
        def encode(self, texts, **options):
            if len(self.asked) >= 20:
                raise KeyboardInterrupt
            return super().encode(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        embed_records([said(texts)], Dying(), FROZEN, out, shard_bytes=256)
    with pytest.raises(UserError, match="does not have the captions"):
        TextEmbeddings.open(out).require_records(said(texts))
    (out / "000099.embeddings.npy").write_bytes(b"half a shard")  # killed before its entries were written
    encoder, lines = FakeEncoder(), []
    store = embed_records([said(texts)], encoder, FROZEN, out, say=lines.append, shard_bytes=256)
    assert 20 <= len(encoder.asked) < 41
    assert f"{41 - len(encoder.asked)} of them there already" in lines[0]
    np.testing.assert_array_equal(store.fetch(texts, FROZEN)[0], FakeEncoder().encode(texts)[0])
    store.require_records(said(texts))
    again = FakeEncoder()
    embed_records([said([*texts, "one more"], "others")], again, FROZEN, out)
    assert again.asked == ["one more"]
    TextEmbeddings.open(out).require_records(said(texts))


def test_the_size_is_known_before(tmp_path):
    for padding in ("masked", "kept"):
        settings = replace(FROZEN, padding=padding)
        texts = [f"{'word ' * (i % 5)}{i}" for i in range(60)] + [""]
        plan = estimate(texts, len(texts), FakeEncoder(), settings)
        out = tmp_path / padding
        embed_records([said(texts)], FakeEncoder(), settings, out, shard_bytes=2**30)
        stored = np.load(out / "000000.embeddings.npy").nbytes + np.load(out / "000000.texts.npy").nbytes
        assert plan.bytes == stored


def test_no_room_is_said_before_anything_is_embedded(tmp_path, monkeypatch):
    encoder = FakeEncoder()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="GB are free there"):
        embed_records([said(TEXTS)], encoder, FROZEN, tmp_path / "out")
    assert not encoder.asked


def test_other_encoders_and_settings_are_refused_by_name(tmp_path):
    store = embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path / "out")
    store.check(FROZEN)
    store.check(replace(FROZEN, fingerprint=""))
    with pytest.raises(UserError, match=r"max_tokens 6, the experiment text\.frozen\.max_tokens 7"):
        store.check(replace(FROZEN, max_tokens=7))
    with pytest.raises(UserError, match="fingerprint"):
        embed_records([said(TEXTS)], FakeEncoder(fingerprint="another"), FROZEN, tmp_path / "out")
    with pytest.raises(UserError, match="'unheard of'"):
        store.fetch(["unheard of"], FROZEN)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(UserError, match="holds no text embeddings"):
        embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path / "mine")
    with pytest.raises(UserError, match="reimagen embed"):
        TextEmbeddings.open(tmp_path / "nowhere")


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path)
    file = tmp_path / "000000.embeddings.npy"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"000000\.embeddings\.npy is missing or damaged"):
        TextEmbeddings.open(tmp_path).fetch(TEXTS, FROZEN)


def test_a_text_of_more_tokens_than_are_read_is_refused_by_name(tmp_path):
    store = embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path)
    store._shard(0)  # which is as it should be; then a bit of the list changes
    file = tmp_path / "000000.texts.npy"
    entries = np.load(file)
    entries["tokens"] += 64
    np.save(file, entries)
    again = TextEmbeddings.open(tmp_path)
    vars(again)["_shards"] = store._shards
    with pytest.raises(UserError, match=r"000000\.texts\.npy is damaged \(a text of \d+ tokens\)"):
        again.fetch(TEXTS, FROZEN)


def test_keys_that_share_their_first_half_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(text_embeddings, "keys_of", lambda texts: keys_of(texts) * np.array([0, 1], np.uint64))
    store = embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path)
    np.testing.assert_array_equal(store.fetch(TEXTS, FROZEN)[0], FakeEncoder().encode(TEXTS)[0])
    with pytest.raises(UserError, match="absent"):
        store.fetch(["absent"], FROZEN)


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """7 records in one base, two neighbours each."""
    folder = tmp_path_factory.mktemp("embedded")
    records = records_of(folder / "r", [f"number {i} of the {'red' if i % 2 else 'blue'} ones" for i in range(7)])
    return build_triples(records, KnowledgeBase.build(records, folder / "kb"), 2, folder / "t")


class TestLoader:
    @staticmethod
    def config(store: str = ""):
        text = replace(TINY.system.text, frozen=FROZEN, max_bytes=64)
        data = TriplesConfig(batch_size=4, num_neighbours=2, threads=1, text_embeddings=store)
        return replace(changed(TINY, resolution=8, text=text), data=data)

    def test_batches_hold_the_embeddings_of_their_captions(self, triples, tmp_path):
        embed_records([triples.records], FakeEncoder(), FROZEN, tmp_path / "store")
        config, tokenizer = self.config(str(tmp_path / "store")), ByteTokenizer(64)
        batch = next(iter(make_dataset(triples, config)))
        uncached = next(iter(make_dataset(triples, config, cache_bytes=0)))
        assert jax.tree.all(jax.tree.map(np.array_equal, batch, uncached))
        for texts, lead in ((batch.tokens_BL, (4,)), (batch.nbr_tokens_BKL, (4, 2))):
            assert texts.embedding_BLD.shape == (*lead, 6, 4)
            captions = [tokenizer.decode(row) for row in texts.caption_BC.reshape(-1, 64)]
            expected, mask = FakeEncoder().encode(captions)
            found = np.array([caption != "" for caption in captions])
            assert found.any()
            np.testing.assert_array_equal(texts.embedding_BLD.reshape(-1, 6, 4)[found], expected[found])
            np.testing.assert_array_equal(texts.mask_BL.reshape(-1, 6)[found], mask[found])
            assert not texts.mask_BL.reshape(-1, 6)[~found].any()

    def test_missing_embeddings_are_asked_for(self, triples, tmp_path):
        with pytest.raises(UserError, match=r"--data\.text-embeddings DIR"):
            make_dataset(triples, self.config())
        embed_records([said(TEXTS)], FakeEncoder(), FROZEN, tmp_path / "store")
        with pytest.raises(UserError, match="does not have the captions of"):
            make_dataset(triples, self.config(str(tmp_path / "store")))


def test_the_settings_of_a_frozen_encoder_are_checked():
    for settings in ({"width": 0}, {"max_tokens": 0}):
        with pytest.raises(UserError, match=r"text\.frozen"):
            FrozenTextConfig(**settings)
