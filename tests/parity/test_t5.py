"""Our T5 encoder equals transformers' for equal weights, layer by layer; our tokens are theirs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import torch
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Tokenizer

from reimagen_jax.encoders import t5
from reimagen_jax.encoders.hf_tokenizers import open_t5_tokenizer
from reimagen_jax.pretrained.safetensors_reader import open_checkpoint
from tests.encoders.texts import AWKWARD, texts, train_sentencepiece
from tests.parity.huggingface import hidden_states, randomise, relative_error, save

SIZES = {"vocab_size": 8192, "d_model": 24, "d_kv": 8, "num_heads": 4, "d_ff": 40, "num_layers": 3}
V1_1 = SIZES | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
ORIGINAL = SIZES | {"feed_forward_proj": "relu"}
L = 150
"""Longer than the largest distance that (6) tells apart."""


def inputs(rng):
    tokens = rng.integers(3, SIZES["vocab_size"], (3, L)).astype(np.int32)
    mask = np.arange(L) < np.array([[L], [77], [1]])
    return np.where(mask, tokens, 0).astype(np.int32), mask


def of_blocks(module, method):
    """Which intermediate results are kept."""
    return isinstance(module, t5.Block) and method == "__call__"


def our_states(folder, dtype, tokens, mask):
    """Ours after the embedding and every block, and the result."""
    checkpoint, config = open_checkpoint(folder), t5.t5_config(t5.read_settings(folder))
    params = t5.load_params(checkpoint, config, dtype)
    network = t5.T5Encoder(config, dtype)

    def run(params, tokens, mask):
        return network.apply({"params": params}, tokens, mask, capture_intermediates=of_blocks)

    out, kept = jax.jit(run)(params, tokens, mask)
    states = [kept["intermediates"][f"block_{i}"]["__call__"][0] for i in range(config.depth)]
    return params, states, out


@pytest.mark.parametrize("settings", [V1_1, ORIGINAL], ids=["v1.1", "original"])
def test_every_layer_equals_theirs(tmp_path, settings):
    model = randomise(T5EncoderModel(T5Config(**settings)), seed=1)
    tokens, mask = inputs(np.random.default_rng(0))
    theirs, out = hidden_states(model, input_ids=tokens, attention_mask=mask)
    params, ours, result = our_states(save(model, tmp_path, "20KB"), "float32", tokens, mask)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    np.testing.assert_array_equal(params["embed"]["embedding"], model.shared.weight.detach())
    for our, their in zip(ours[:-1], theirs[1:-1], strict=True):  # their last state is the one after the norm
        assert relative_error(our, their) < 2e-6
        np.testing.assert_allclose(our, their, atol=1e-4)
    assert relative_error(result, out.last_hidden_state) < 2e-6
    np.testing.assert_allclose(result, out.last_hidden_state, atol=1e-4)
    # Every block does something, and not the same to all tokens.
    assert min(relative_error(b, a) for a, b in itertools.pairwise(theirs)) > 0.1


def test_an_encoder_is_read_out_of_a_whole_t5(tmp_path):
    model = randomise(T5ForConditionalGeneration(T5Config(**V1_1)), seed=2)
    tokens, mask = inputs(np.random.default_rng(1))
    theirs, _ = hidden_states(model.encoder, input_ids=tokens, attention_mask=mask)
    assert relative_error(our_states(save(model, tmp_path), "float32", tokens, mask)[2], theirs[-1]) < 2e-6


def test_bfloat16_stays_near(tmp_path):
    model = randomise(T5EncoderModel(T5Config(**V1_1)), seed=3)
    tokens, mask = inputs(np.random.default_rng(2))
    theirs, _ = hidden_states(model, input_ids=tokens, attention_mask=mask)
    params, _, ours = our_states(save(model.to(torch.bfloat16), tmp_path), "bfloat16", tokens, mask)
    assert params["block_0"]["query"]["kernel"].dtype == ours.dtype == jnp.bfloat16
    assert params["norm"]["scale"].dtype == jnp.float32
    assert relative_error(np.asarray(ours[mask], np.float32), theirs[-1][mask]) < 0.03


def test_all_distances_fall_into_their_buckets():
    from transformers.models.t5.modeling_t5 import T5Attention

    for buckets, max_distance in ((32, 128), (16, 40)):
        distance = torch.arange(600)[None, :] - torch.arange(600)[:, None]
        theirs = T5Attention._relative_position_bucket(distance, True, buckets, max_distance)
        np.testing.assert_array_equal(t5.relative_buckets(600, buckets, max_distance), theirs)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the tokenizer as T5's is published, and one with it as transformers writes it."""
    folder, as_json = tmp_path_factory.mktemp("t5"), tmp_path_factory.mktemp("t5_json")
    train_sentencepiece(folder)
    theirs = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    theirs.save_pretrained(as_json)
    return folder, as_json, theirs


@pytest.mark.parametrize("max_tokens", [20, 512])
def test_tokens_equal_theirs(published, max_tokens):
    *folders, theirs = published
    expected = theirs(list(texts()), max_length=max_tokens, truncation=True)["input_ids"]
    assert np.mean([theirs.unk_token_id in row for row in expected]) < 0.9
    words = sentencepiece.SentencePieceProcessor(model_file=str(folders[0] / "spiece.model"))
    for folder in folders:
        tokens, mask = open_t5_tokenizer(folder).encode(texts(), max_tokens)
        ours = [row[keep].tolist() for row, keep in zip(tokens, mask, strict=True)]
        wrong = [(text, our, their) for text, our, their in zip(texts(), ours, expected, strict=True) if our != their]
        if folder == folders[0]:
            # Of two equally probable ways to cut a word, SentencePiece may take another than theirs: thu+thuthu.
            assert len(wrong) < 1e-4 * len(ours)
            wrong = [found for found in wrong if not equally_probable(words, *found[1:])]
        assert not wrong, f"{len(wrong)} of {len(ours)}: {wrong[:5]}"


def equally_probable(words, *rows):
    """Whether these tokens spell the same text with the same probability."""
    (text, score), *others = ((words.decode(row), sum(map(words.get_score, row))) for row in rows)
    return all(other == text and abs(of_other - score) < 1e-3 for other, of_other in others)


@pytest.mark.parametrize("padding", ["zero", "encoded"])
def test_a_folder_as_published_encodes_texts_as_theirs(published, tmp_path, padding):
    folder, _, tokenizer = published
    model = randomise(T5EncoderModel(T5Config(**V1_1)), seed=4)
    save(model, tmp_path, "20KB")
    encoder = t5.open(tmp_path, dtype="float32", max_tokens=77, tokenizer=folder, batch_size=4)
    embedding, mask = encoder.encode(AWKWARD, padding=padding)
    assert embedding.shape == (len(AWKWARD), 77, encoder.width)
    batch = tokenizer(list(AWKWARD), padding="max_length", max_length=77, truncation=True, return_tensors="np")
    np.testing.assert_array_equal(mask, batch["attention_mask"])
    theirs = hidden_states(model, **batch)[0][-1]
    if padding == "zero":
        assert not embedding[~mask].any()
        assert relative_error(embedding[mask], theirs[mask]) < 2e-6
    else:
        assert relative_error(embedding, theirs) < 2e-6
