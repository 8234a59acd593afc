"""Our CLIP equals transformers' for equal weights, layer by layer; our tokens and image sizes are theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from reimagen_jax.encoders import clip, clip_net
from reimagen_jax.encoders.frozen import read_settings
from reimagen_jax.encoders.hf_tokenizers import open_clip_tokenizer
from reimagen_jax.encoders.joint import Joint
from reimagen_jax.encoders.joint import published as published_clip
from reimagen_jax.errors import UserError
from reimagen_jax.pretrained.safetensors_reader import open_checkpoint
from tests.encoders.texts import AWKWARD, texts, train_bpe
from tests.parity.huggingface import hidden_states, randomise, relative_error, save

L, R, PROJECTION = 30, 32, 20


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the tokenizer as CLIP's is published, and one with it as transformers writes it."""
    folder, as_json = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("clip_json")
    train_bpe(folder)
    theirs = CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    theirs.save_pretrained(as_json)
    return folder, as_json, theirs


def text_settings(words):
    end = words.eos_token_id
    settings = {"vocab_size": len(words), "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3}
    settings |= {"num_attention_heads": 3, "max_position_embeddings": L, "projection_dim": PROJECTION}
    return settings | {"eos_token_id": end, "pad_token_id": end, "bos_token_id": words.bos_token_id}


IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE |= {"image_size": R, "patch_size": 8, "projection_dim": PROJECTION, "hidden_act": "gelu"}


@pytest.fixture(scope="module")
def both(published, tmp_path_factory):
    """A whole CLIP of theirs, and its folder."""
    config = CLIPConfig(text_config=text_settings(published[2]), vision_config=IMAGE, projection_dim=PROJECTION)
    model = randomise(CLIPModel(config), seed=1)
    return model, save(model, tmp_path_factory.mktemp("both"), "20KB")


def of_blocks(module, method):
    """Which intermediate results are kept."""
    return isinstance(module, clip_net.Block) and method == "__call__"


def our_states(folder, tower, inputs):
    """Of one tower: ours after every block, and the result."""
    config = clip.clip_config(read_settings(folder))
    params = clip.load_params(open_checkpoint(folder), config, "float32")[tower]
    network = clip_net.TextTower(config.text) if tower == "text" else clip_net.ImageTower(config.image)
    run = jax.jit(lambda params, x: network.apply({"params": params}, x, capture_intermediates=of_blocks))
    out, kept = run(params, inputs)
    depth = (config.text if tower == "text" else config.image).tower.depth
    return [kept["intermediates"][f"block{i}"]["__call__"][0] for i in range(depth)], out


def test_every_layer_of_the_text_tower_equals_theirs(both):
    model, folder = both
    tokens = np.random.default_rng(0).integers(0, model.config.text_config.vocab_size, (3, L)).astype(np.int32)
    theirs, out = hidden_states(model.text_model, input_ids=tokens)
    ours, result = our_states(folder, "text", tokens)
    for our, their in zip(ours, theirs[1:], strict=True):
        assert relative_error(our, their) < 2e-6
        np.testing.assert_allclose(our, their, atol=1e-4)
    assert relative_error(result, out.last_hidden_state) < 2e-6


def test_every_layer_of_the_image_tower_equals_theirs(both):
    model, folder = both
    images = np.random.default_rng(1).normal(size=(3, R, R, 3)).astype(np.float32)
    theirs, _ = hidden_states(model.vision_model, pixel_values=images.transpose(0, 3, 1, 2))
    ours, _ = our_states(folder, "image", images)
    for our, their in zip(ours, theirs[1:], strict=True):
        assert relative_error(our, their) < 2e-6
        np.testing.assert_allclose(our, their, atol=1e-4)


def unit(vectors):
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@torch.no_grad()
def text_features(model, words, some, masked=True):
    batch = words(list(some), padding="max_length", max_length=L, truncation=True, return_tensors="pt")
    return model(**batch) if masked else model(batch["input_ids"])


@torch.no_grad()
def test_a_folder_as_published_embeds_texts_and_images_as_theirs(both, published):
    model, folder = both
    encoder = clip.open(folder, tokenizer=published[0], batch_size=4)
    assert (encoder.width, encoder.resolution) == (PROJECTION, R)
    batch = published[2](list(AWKWARD), padding="max_length", max_length=L, truncation=True, return_tensors="pt")
    np.testing.assert_allclose(encoder.texts(AWKWARD), unit(model.get_text_features(**batch).pooler_output), atol=1e-5)
    rng = np.random.default_rng(2)
    for H, W in ((R, R), (50, 50), (20, 37), (90, 41)):
        # Smooth, so that resizing matters, and not the same everywhere.
        coarse = rng.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
        images = np.stack([np.asarray(Image.fromarray(x).resize((W, H), Image.Resampling.BICUBIC)) for x in coarse])
        processor = CLIPImageProcessorPil(size={"shortest_edge": R}, crop_size={"height": R, "width": R})
        pixels = processor([Image.fromarray(x) for x in images], return_tensors="pt")["pixel_values"]
        theirs = unit(model.get_image_features(pixels).pooler_output)
        np.testing.assert_allclose(encoder.images(images), theirs, atol=1e-5)
        assert relative_error(theirs[:-1], theirs[1:]) > 0.01


def test_text_towers_alone_are_read(both, published, tmp_path):
    words = published[2]
    folder, config = published[0], CLIPTextConfig(**text_settings(words))
    projected = randomise(CLIPTextModelWithProjection(config), seed=2)
    plain = randomise(CLIPTextModel(config), seed=3)
    save(projected, tmp_path / "projected")
    save(plain, tmp_path / "plain")
    for model, where in (
        (both[0].text_model, both[1]),
        (projected, tmp_path / "projected"),
        (plain, tmp_path / "plain"),
    ):
        encoder = clip.open_text(where, tokenizer=folder, batch_size=4)
        embedding, mask = encoder.encode(AWKWARD)
        theirs = text_features(model, words, AWKWARD)
        assert embedding.shape == (len(AWKWARD), L, 24)
        assert relative_error(embedding[mask], theirs.last_hidden_state.numpy()[mask]) < 2e-6
        # Padding, which pipelines of Stable Diffusion look at too, is encoded as they do it: nothing is masked.
        everywhere = encoder.encode(AWKWARD, padding="encoded")[0]
        assert relative_error(everywhere, text_features(model, words, AWKWARD, masked=False).last_hidden_state) < 2e-6
    vectors = clip.open(tmp_path / "projected", tokenizer=folder).texts(AWKWARD)
    np.testing.assert_allclose(vectors, unit(text_features(projected, words, AWKWARD).text_embeds), atol=1e-5)
    with pytest.raises(UserError, match=r"text_projection\.weight is missing"):
        clip.open(tmp_path / "plain", tokenizer=folder)


@torch.no_grad()
@pytest.mark.parametrize("normalised", [True, False])
def test_within_a_system_a_clips_states_and_vectors_equal_theirs(both, published, normalised):
    """States after the last norm up to the end, and the projections' vectors: what unCLIP's prior and decoder read."""
    model, folder = both
    config, params = published_clip(folder, tokenizer=published[0], normalised=normalised)
    joint, scaled = Joint(config), unit if normalised else np.asarray
    tokens = joint.tokenizer().encode(AWKWARD)
    assert tokens.shape == (len(AWKWARD), L) and (config.max_tokens, config.text_width, config.resolution) == (L, 24, R)
    read = jax.jit(joint.texts)
    reading = read(params, jnp.asarray(tokens))
    batch = published[2](list(AWKWARD), padding="max_length", max_length=L, truncation=True, return_tensors="pt")
    theirs, mask = model.text_model(**batch).last_hidden_state.numpy(), batch["attention_mask"].numpy().astype(bool)
    assert np.array_equal(tokens, batch["input_ids"].numpy()) and np.array_equal(reading.mask_BM, mask)
    assert relative_error(np.asarray(reading.state_BMD)[mask], theirs[mask]) < 2e-6
    np.testing.assert_allclose(reading.vector_BD, scaled(model.get_text_features(**batch).pooler_output), atol=1e-5)
    # Padding that is no end, as karlo's tokenizer writes it, changes nothing.
    other = np.where(mask, tokens, 0).astype(np.int32)
    assert np.array_equal(read(params, jnp.asarray(other)).vector_BD, reading.vector_BD)
    rng, embed = np.random.default_rng(4), jax.jit(joint.images)
    x = rng.random((2, 3, R, R), np.float32) * 2.0 - 1.0
    pixels = (x + 1.0) / 2.0 - clip_net.MEAN.reshape(3, 1, 1)
    vectors = model.get_image_features(torch.tensor(pixels / clip_net.STD.reshape(3, 1, 1))).pooler_output
    np.testing.assert_allclose(embed(params, jnp.asarray(x.transpose(0, 2, 3, 1))), scaled(vectors), atol=1e-5)
    # Larger images are resized as torch does it with antialias.
    large = rng.random((2, 3, 2 * R, 2 * R), np.float32) * 2.0 - 1.0
    small = torch.nn.functional.interpolate(torch.tensor(large), (R, R), mode="bicubic", antialias=True).numpy()
    ours, same = (embed(params, jnp.asarray(x.transpose(0, 2, 3, 1))) for x in (large, small))
    np.testing.assert_allclose(ours, same, atol=2e-5)


@torch.no_grad()
def test_image_towers_alone_are_read(tmp_path):
    model = randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE)), seed=4)
    save(model, tmp_path)
    encoder = clip.open(tmp_path)
    images = np.random.default_rng(3).integers(0, 256, (3, R, R, 3), dtype=np.uint8)
    pixels = np.array(clip_net.normalise(jnp.float32(images) / 255.0)).transpose(0, 3, 1, 2)
    theirs = model(torch.tensor(pixels)).image_embeds
    np.testing.assert_allclose(encoder.images(images), unit(theirs), atol=1e-5)
    with pytest.raises(UserError, match="image tower alone"):
        encoder.texts(["a"])


@pytest.mark.parametrize("max_tokens", [10, 77])
def test_tokens_equal_theirs(published, max_tokens):
    *folders, theirs = published
    expected = theirs(list(texts()), max_length=max_tokens, truncation=True)["input_ids"]
    for folder in folders:
        tokens, mask = open_clip_tokenizer(folder).encode(texts(), max_tokens)
        ours = [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)]
        wrong = [text for text, our, their in zip(texts(), ours, expected, strict=True) if our != their]
        assert not wrong, f"{len(wrong)} of {len(ours)}: {wrong[:5]}"
