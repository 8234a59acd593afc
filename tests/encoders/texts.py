"""Texts to try tokenizers on: captions of EntityWorld, awkward ones, and corpora if there are any at hand.

`REIMAGEN_TEXTS=DIR` adds the `prompt`, `caption`, `name` and `keywords` of the JSON lines files (plain or gzip) under
DIR, of at most some 50,000 lines a file, evenly spread: to compare on real prompts and in many scripts.
"""

import gzip
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from reimagen_jax.data.entityworld import CATEGORIES, caption, entity_name
from reimagen_jax.data.entityworld.scenes import draw_scene

AWKWARD = (
    "",
    " ",
    "  two  spaces,\ta tab\nand a line ",
    "it's they're I'll WE'VE don't 'quoted' o'clock",
    "HELLO, World!!! (really?) ... -- 3.14159 x 1,000,000 = #42 @home & 50%",
    "café naïve Ångström \u0065\u0301 \u212b ﬁne Ⅷ ½ x² ＦＵＬＬ　ｗｉｄｔｈ",
    "an “elegant” fox—very—‘quick’… €5",
    "東京の犬と猫 กรุงเทพมหานคร كلب صغير हिन्दी में Привет мир",
    "👩‍👩‍👧‍👦 🇨🇭 ☃️ emoji and \u200bzero width",
    "averyveryveryverylongwordwithoutanyspaceinit" * 8,
    "word " * 200,
)
MOST_LINES = 50_000
FIELDS = ("prompt", "caption", "name", "keywords")


@cache
def texts() -> tuple[str, ...]:
    """All of them; the awkward ones first."""
    rng = np.random.default_rng(0)
    world = [caption(rng, entity_name(0, i), CATEGORIES[i % len(CATEGORIES)], draw_scene(rng))[0] for i in range(400)]
    return (*AWKWARD, *world, *_corpora())


def _corpora() -> list[str]:
    found = []
    if folder := os.environ.get("REIMAGEN_TEXTS"):
        for file in sorted(Path(folder).rglob("*.jsonl*")):
            with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            rows = rows[:: -(-len(rows) // MOST_LINES)]
            values = [row[field] for row in rows for field in FIELDS if field in row]
            found += [value if isinstance(value, str) else ", ".join(value) for value in values]
        assert found, f"REIMAGEN_TEXTS={folder} holds no texts"
    return found


def _sample(limit: int) -> list[str]:
    """Evenly spread, to learn a vocabulary from; without the endless word."""
    kept = [text for text in texts() if text.strip() and len(text) < 300]
    return kept[:: max(1, len(kept) // limit)]


def vocabulary_size() -> int:
    """Enough for the letters of all scripts that there are."""
    return 900 if len(texts()) < 1000 else 8000


def train_sentencepiece(folder: Path, vocabulary: int | None = None) -> None:
    """Writes a `spiece.model` as T5's is: unigram, padding 0, end 1, unknown 2."""
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_sample(20_000)),
            model_writer=file,
            vocab_size=vocabulary or vocabulary_size(),
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )


def train_bpe(folder: Path, vocabulary: int | None = None) -> None:
    """Writes `vocab.json` and `merges.txt` as CLIP's are: bytes, bytes that end a word, merges, two special tokens.

    The same on every run: the trainer breaks ties by numbers, and numbers in any order what ends a word, unless told.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ending = [f"{byte}</w>" for byte in alphabet]
    words = tokenizers.Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary or vocabulary_size(),
        show_progress=False,
        special_tokens=ending,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
    )
    words.train_from_iterator((text.lower() for text in _sample(20_000)), trainer)
    words.model.save(str(folder))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merged = [line.replace(" ", "") for line in merges if not line.startswith("#version")]
    tokens = dict.fromkeys([*alphabet, *ending, *merged, "<|startoftext|>", "<|endoftext|>"])
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
