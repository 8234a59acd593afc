"""Frozen encoders: an embedding belongs to its text, whatever the batch, the bucket and the devices."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.encoders import clip, t5
from reimagen_jax.encoders.frozen import TextEncoder, bucketed
from reimagen_jax.encoders.hf_tokenizers import open_t5_tokenizer
from reimagen_jax.encoders.published import open_published
from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.encoders.text_input import FrozenTexts
from reimagen_jax.errors import UserError
from reimagen_jax.sharding import host_mesh, make_mesh
from tests.encoders.published import CLIP, T5, write_clip, write_t5
from tests.encoders.texts import texts, train_sentencepiece

SOME = (*texts()[:14], "a small dog")


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return write_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(t5_folder):
    return t5.open(t5_folder, dtype="float32", max_tokens=40, batch_size=4)


def test_embeddings_do_not_depend_on_the_batch(encoder):
    together, mask = encoder.encode(SOME)
    assert together.shape == (len(SOME), 40, T5["d_model"])
    assert mask.sum(axis=1).min() < 16 < 32 < mask.sum(axis=1).max() == 40
    assert not together[~mask].any() and (np.abs(together).max(axis=-1)[mask] > 0).all()
    for text, row, keep in zip(SOME, together, mask, strict=True):
        alone, alone_mask = encoder.encode([text])
        np.testing.assert_array_equal(alone_mask[0], keep)
        np.testing.assert_allclose(alone[0], row, atol=2e-5)
    full, _ = encoder.encode(SOME, padding="encoded")
    np.testing.assert_allclose(full[mask], together[mask], atol=2e-5)
    assert (np.abs(full).max(axis=-1) > 0).all()


def test_nothing_is_encoded_to_nothing(encoder):
    embedding, mask = encoder.encode([])
    assert embedding.shape == (0, 40, T5["d_model"]) and mask.shape == (0, 40)


def test_few_shapes_are_compiled(encoder):
    shapes = set()

    def recorded(params, tokens, mask):
        shapes.add(tokens.shape)
        return encoder.apply(params, tokens, mask)

    recording = dataclasses.replace(encoder, apply=recorded)
    for number in range(1, len(SOME) + 1):
        recording.encode(SOME[:number])
    assert shapes <= {(B, L) for B in (1, 2, 4) for L in (16, 32, 40)}


def test_batches_hold_every_text_once():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 78, 100)
    seen = []
    for rows, B, L in bucketed(lengths, 77, 8, make_mesh(2, jax.devices()[:4])):
        assert L in (16, 32, 64, 77) and (lengths[rows] <= L).all()
        assert len(rows) <= B <= 8 and B % 2 == 0
        seen += rows.tolist()
    assert sorted(seen) == list(range(100))


def test_padding_is_not_looked_at(t5_folder, encoder):
    network = t5.T5Encoder(t5.t5_config(T5))
    tokens = jnp.arange(1, 13, dtype=jnp.int32).reshape(2, 6)
    mask = jnp.array([[1, 1, 1, 1, 0, 0], [1] * 6], bool)
    run = jax.jit(lambda tokens: network.apply({"params": encoder.params}, tokens, mask))
    np.testing.assert_array_equal(run(tokens)[mask], run(jnp.where(mask, tokens, 99))[mask])
    assert (run(tokens)[mask] != run(tokens.at[0, 0].set(99))[mask]).any()


def test_devices_share_the_work(t5_folder, encoder):
    mesh = make_mesh(fsdp=4)
    spread = t5.open(t5_folder, dtype="float32", max_tokens=40, batch_size=4, mesh=mesh)
    big = {"d_ff": 256, "d_kv": 64}
    expected = t5.abstract_params(t5.t5_config(T5 | big), "float32")["block_0"]
    place = t5.placement(mesh, t5.RULES)
    for name, shard in (("query", (24, 64)), ("out", (64, 24)), ("up", (24, 64)), ("down", (64, 24))):
        shape = expected[name]["kernel"].shape
        assert place(f"block_0/{name}/kernel", shape).shard_shape(shape) == shard
    assert place("embed/embedding", (1024, 24)).shard_shape((1024, 24)) == (256, 24)
    assert spread.params["embed"]["embedding"].sharding.shard_shape((1024, 24)) == (256, 24)
    np.testing.assert_allclose(spread.encode(SOME)[0], encoder.encode(SOME)[0], atol=2e-5)
    assert spread.fingerprint == encoder.fingerprint


def test_the_host_is_one_cpu():
    (device,) = host_mesh().devices.flat
    assert device.platform == "cpu" and device.process_index == jax.process_index()


@pytest.fixture
def host(monkeypatch):
    """A CPU that is not the first device, as the host's is not where there is an accelerator."""
    device = jax.devices()[5]
    monkeypatch.setattr("reimagen_jax.encoders.published.host_mesh", lambda: make_mesh(devices=[device]))
    return device


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_on_the_host_nothing_lies_on_the_first_device(t5_folder, clip_folder, host, kind):
    folder = {"t5": t5_folder, "clip": clip_folder}[kind]
    first, there = (
        open_published(folder, dtype="float32", max_tokens=40, batch_size=4, device=device)
        for device in ("accelerator", "host")
    )
    for encoder, device in ((first, jax.devices()[0]), (there, host)):
        assert {each for leaf in jax.tree.leaves(encoder.params) for each in leaf.devices()} == {device}
    worked, apply = set(), there.apply

    def watched(params, tokens, mask):
        embedding = apply(params, tokens, mask)
        worked.update(embedding.devices())
        return embedding

    result = dataclasses.replace(there, apply=watched).encode(SOME)[0]
    assert worked == {host}
    np.testing.assert_array_equal(result, first.encode(SOME)[0])


def test_what_is_drawn_from_is_embedded_on_the_host(t5_folder, host, monkeypatch):
    lay, encode = set(), TextEncoder.encode

    def watched(self, texts, **more):
        lay.update(each for leaf in jax.tree.leaves(self.params) for each in leaf.devices())
        return encode(self, texts, **more)

    monkeypatch.setattr(TextEncoder, "encode", watched)
    settings = FrozenTextConfig(encoder=str(t5_folder), width=T5["d_model"], max_tokens=40)
    assert FrozenTexts(settings)(["a small dog"]).embedding_BLD.shape == (1, 40, T5["d_model"])
    assert lay == {host}


def test_a_fingerprint_tells_encoders_apart(t5_folder, encoder, tmp_path):
    def fingerprint(folder=t5_folder, dtype="float32", max_tokens=40):
        return t5.open(folder, dtype=dtype, max_tokens=max_tokens).fingerprint

    other_words = shutil.copytree(t5_folder, tmp_path / "words")
    train_sentencepiece(other_words, 500)
    copy = shutil.copytree(t5_folder, tmp_path / "copy")
    assert fingerprint() == fingerprint(copy) == encoder.fingerprint
    others = [fingerprint(dtype="bfloat16"), fingerprint(max_tokens=41), fingerprint(write_t5(tmp_path / "w", seed=1))]
    assert len({encoder.fingerprint, fingerprint(other_words), *others}) == 5


def test_bfloat16_is_as_asked_whatever_the_file_holds(tmp_path):
    whole = t5.open(write_t5(tmp_path / "half", dtype=np.float16), dtype="bfloat16", max_tokens=16)
    embedding, _ = whole.encode(["a dog"])
    assert embedding.dtype == jnp.bfloat16 and np.isfinite(embedding.astype(np.float32)).all()


@pytest.mark.parametrize(("size", "millions"), [("small", 35.3), ("xxl", 4762.3)])
def test_published_sizes(size, millions):
    params = t5.abstract_params(t5.V1_1[size], "bfloat16")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_released_encoder_says_so(t5_folder):
    encoder = t5.open(t5_folder, dtype="float32", max_tokens=16)
    encoder.release()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(encoder.params))
    with pytest.raises(UserError, match="released"):
        encoder.encode(["a dog"])


def test_cut_texts_still_end(t5_folder):
    words = open_t5_tokenizer(t5_folder)
    tokens, mask = words.encode(["word " * 50, "a"], 12)
    assert tokens.shape == (2, 12) and tokens.dtype == np.int32
    ends = [row[keep][-1] for row, keep in zip(tokens, mask, strict=True)]
    assert ends == [words.end, words.end] and mask[0].all() and (tokens[~mask] == words.padding).all()


def change(folder, **settings):
    (folder / "config.json").write_text(json.dumps(T5 | settings), encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
        ({"vocab_size": 50}, "the network 50"),
        ({"d_ff": 48}, r"wi_0\.weight has shape \(32, 24\), not \(48, 24\)"),
        ({"num_layers": 3}, r"encoder\.block\.2\.layer\.0\.SelfAttention\.q\.weight is missing"),
    ],
)
def test_what_does_not_fit_is_refused(t5_folder, tmp_path, settings, message):
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    change(folder, **settings)
    with pytest.raises(UserError, match=message):
        t5.open(folder, dtype="float32")


@pytest.mark.parametrize("kind", [["t5"], {}, 5, None])
def test_a_model_type_that_is_no_text_is_refused(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    with pytest.raises(UserError, match="holds a network of model_type"):
        open_published(tmp_path, dtype="float32", max_tokens=8)


def test_broken_and_missing_files_are_named(t5_folder, tmp_path):
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    (folder / "spiece.model").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"spiece\.model"):
        t5.open(folder)
    (folder / "spiece.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json or spiece\.model"):
        t5.open(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        t5.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        t5.open(folder)


def test_a_tokenizer_beside_the_weights_is_found(t5_folder, tmp_path):
    folder = shutil.copytree(t5_folder, tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (folder / "spiece.model").rename(tmp_path / "tokenizer" / "spiece.model")
    assert open_t5_tokenizer(folder).encode(SOME, 9)[0].shape == (len(SOME), 9)


def test_clip_puts_texts_and_images_into_one_space(clip_folder):
    encoder = clip.open(clip_folder, batch_size=4)
    vectors = encoder.texts(SOME)
    assert vectors.shape == (len(SOME), CLIP["projection_dim"]) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    for i in (0, 5, 10):
        np.testing.assert_allclose(encoder.texts([SOME[i]])[0], vectors[i], atol=2e-5)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    seen = encoder.images(images)
    np.testing.assert_allclose(encoder.images(images[3:4])[0], seen[3], atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1.0, rtol=1e-5)
    with pytest.raises(UserError, match="uint8"):
        encoder.images(images.astype(np.float32))
    spread = clip.open(clip_folder, batch_size=4, mesh=make_mesh(fsdp=2))
    np.testing.assert_allclose(spread.texts(SOME), vectors, atol=2e-5)
    np.testing.assert_allclose(spread.images(images), seen, atol=2e-5)
    assert spread.fingerprint == encoder.fingerprint
    encoder.release()
    with pytest.raises(UserError, match="released"):
        encoder.images(images)


def test_clips_text_tower_looks_back_only(clip_folder):
    encoder = clip.open_text(clip_folder)
    assert encoder.max_tokens == 40
    short, long = encoder.encode(["a small dog", "a small dog on a hill"])[0]
    np.testing.assert_allclose(short[:4], long[:4], atol=2e-5)
    with pytest.raises(UserError, match="takes 3 to 40"):
        clip.open_text(clip_folder, max_tokens=77)


@pytest.mark.parametrize(("H", "W"), [(40, 20), (20, 40), (31, 31), (8, 12)])
def test_images_keep_their_middle(H, W):
    rows, columns = np.mgrid[:H, :W]
    image = np.stack([rows * (255 // H), columns * (255 // W), 0 * rows], axis=-1).astype(np.uint8)
    fitted = clip.fit(image, 16).astype(float)
    assert fitted.shape == (16, 16, 3)
    middle = image.astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(fitted.mean(axis=(0, 1)), middle, atol=255 / min(H, W))
    # A square is cut out: both axes cover equally many pixels.
    slope = [(fitted[-1, 8, 0] - fitted[0, 8, 0]) / (255 // H), (fitted[8, -1, 1] - fitted[8, 0, 1]) / (255 // W)]
    np.testing.assert_allclose(slope, min(H, W) * 15 / 16, atol=1.5)
