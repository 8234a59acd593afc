"""Special, added and padding tokens: whatever the files beside a vocabulary say, ids and padding are transformers'."""

import json
import shutil

import pytest
from transformers import CLIPTokenizer, T5Tokenizer

from reimagen_jax.encoders.hf_tokenizers import open_clip_tokenizer, open_t5_tokenizer
from tests.encoders.texts import train_bpe, train_sentencepiece

SPECIAL = (
    "a photo of <cat-toy> on grass",
    "two<cat-toy><cat-toy> , <CAT-TOY>",
    "a <dog> and <|startoftext|> a cat <|endoftext|> tail <|ENDOFTEXT|>",
    "wow! really!? !",
    "a dog </s> a cat</s>",
    "a <pad> b<unk>c <s>",
    "fill <extra_id_0> here<extra_id_99> and <extra_id_1>, <extra_id_100>",
    "[PAD] [MASK] a  <cat-toy>  b",
    "<cat-toy>",
    "a plain caption, Naïve ﬁne １",
    "",
)


def described(content, **flags):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **flags}


def token(content, **flags):
    return {"__type": "AddedToken", **described(content, **flags)}


CLIP = {
    "plain": {},
    "published": {
        "tokenizer_config.json": {
            "bos_token": token("<|startoftext|>"),
            "eos_token": token("<|endoftext|>"),
            "unk_token": token("<|endoftext|>"),
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer",
            "do_lower_case": True,
            "model_max_length": 77,
        },
        "special_tokens_map.json": {
            "bos_token": described("<|startoftext|>"),
            "eos_token": described("<|endoftext|>"),
            "unk_token": described("<|endoftext|>"),
            "pad_token": "<|endoftext|>",
        },
    },
    "padded by its map": {
        "tokenizer_config.json": {"pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"},
        "special_tokens_map.json": {"pad_token": "!", "bos_token": "<|startoftext|>"},
    },
    "padded by its settings": {"tokenizer_config.json": {"pad_token": "!"}},
    "map is not asked": {
        "tokenizer_config.json": {"added_tokens_decoder": {"N": described("<cat-toy>", special=False)}},
        "special_tokens_map.json": {"pad_token": "!"},
        "added_tokens.json": {"<dog>": "N"},
    },
    "added": {"added_tokens.json": {"<cat-toy>": "N"}},
    "two added": {"added_tokens.json": {"<dog>": "N+1", "<cat-toy>": "N"}},
    "added and special": {
        "added_tokens.json": {"<cat-toy>": "N"},
        "special_tokens_map.json": {"additional_special_tokens": ["<cat-toy>", "<dog>"]},
    },
    "decoder": {"tokenizer_config.json": {"added_tokens_decoder": {"N": described("<cat-toy>", special=False)}}},
    "decoder that takes spaces": {
        "tokenizer_config.json": {"added_tokens_decoder": {"N": described("<cat-toy>", lstrip=True, rstrip=True)}}
    },
    "decoder of a whole word": {
        "tokenizer_config.json": {"added_tokens_decoder": {"N": described("<cat-toy>", single_word=True)}}
    },
    "decoder as it is": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {"N": described("<cat-toy>", special=True, normalized=False)},
            "additional_special_tokens": ["<cat-toy>"],
        }
    },
    "new padding": {"special_tokens_map.json": {"pad_token": "[PAD]", "mask_token": described("[MASK]")}},
    "further": {"tokenizer_config.json": {"extra_special_tokens": {"toy_token": "<cat-toy>"}}},
    "own part": {"tokenizer_config.json": {"toy_token": "<cat-toy>"}},
    "spelt out": {"tokenizer_config.json": {"split_special_tokens": True}},
}
T5 = {
    "plain": {},
    "published": {
        "tokenizer_config.json": {
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "extra_ids": 100,
            "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
            "tokenizer_class": "T5Tokenizer",
            "sp_model_kwargs": {},
        },
        "special_tokens_map.json": {
            "eos_token": "</s>",
            "unk_token": described("<unk>", normalized=False),
            "pad_token": "<pad>",
            "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
        },
    },
    "no extra ids": {"tokenizer_config.json": {"extra_ids": 0}},
    "few extra ids": {"tokenizer_config.json": {"extra_ids": 2}},
    "other special": {"tokenizer_config.json": {"extra_special_tokens": ["<cat-toy>", "<dog>"]}},
    "added": {"added_tokens.json": {"<cat-toy>": "N"}},
    "decoder": {
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                "0": described("<pad>", normalized=False, special=True),
                "1": described("</s>", normalized=False, special=True),
                "2": described("<unk>", normalized=False, special=True),
                "N": described("<cat-toy>", normalized=False, special=False),
            }
        }
    },
    "padded by its map": {"special_tokens_map.json": {"pad_token": "</s>"}},
    "spelt out": {"tokenizer_config.json": {"split_special_tokens": True}},
}


def numbered(content, first):
    """The files' content with N, N+1 in the place of ids after the vocabulary."""
    if isinstance(content, dict):
        ids = {"N": first, "N+1": first + 1}
        return {
            str(ids.get(key, key)): ids[value] if isinstance(value, str) and value in ids else numbered(value, first)
            for key, value in content.items()
        }
    return content


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """CLIP's and T5's files alone, and the ids that come after them."""
    clip, t5 = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("t5")
    train_bpe(clip)
    train_sentencepiece(t5)
    return {"clip": (clip, len(CLIPTokenizer.from_pretrained(clip))), "t5": (t5, len(T5Tokenizer.from_pretrained(t5)))}


def agrees(folder, theirs, ours):
    ids, mask = ours.encode(SPECIAL, 200)
    found = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    expected = theirs(list(SPECIAL))["input_ids"]
    wrong = [(text, our, their) for text, our, their in zip(SPECIAL, found, expected, strict=True) if our != their]
    assert not wrong, f"{folder}: {wrong}"
    assert (ours.padding, ours.end) == (theirs.pad_token_id, theirs.eos_token_id)
    assert ours.vocabulary == max(theirs.get_vocab().values()) + 1


@pytest.mark.parametrize(
    ("family", "files"),
    [pytest.param("clip", files, id=f"clip {name}") for name, files in CLIP.items()]
    + [pytest.param("t5", files, id=f"t5 {name}") for name, files in T5.items()],
)
def test_ids_are_theirs_from_either_file(vocabularies, tmp_path, family, files):
    folder, first = vocabularies[family]
    kind, ours = (CLIPTokenizer, open_clip_tokenizer) if family == "clip" else (T5Tokenizer, open_t5_tokenizer)
    folder = shutil.copytree(folder, tmp_path / "published")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(numbered(content, first)), encoding="utf-8")
    theirs = kind.from_pretrained(folder)
    agrees("published", theirs, ours(folder))
    theirs.save_pretrained(tmp_path / "json")
    assert (tmp_path / "json" / "tokenizer.json").is_file()
    agrees("json", kind.from_pretrained(tmp_path / "json"), ours(tmp_path / "json"))
    agrees("the same", theirs, ours(tmp_path / "json"))
