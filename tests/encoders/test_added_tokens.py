"""What stands in the files beside a tokenizer's vocabulary: it counts, or is refused by name. (Ids: tests/parity.)"""

import json
import shutil

import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

from reimagen_jax.encoders import clip
from reimagen_jax.encoders.hf_tokenizers import open_clip_tokenizer, open_t5_tokenizer
from reimagen_jax.errors import UserError
from tests.encoders.published import CLIP, CLIP_TEXT, write_clip
from tests.encoders.texts import texts, train_bpe, train_sentencepiece


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, train in (("clip", train_bpe), ("t5", train_sentencepiece)):
        (folder / name).mkdir()
        train(folder / name)
    return folder


@pytest.fixture
def clip_folder(folders, tmp_path):
    return shutil.copytree(folders / "clip", tmp_path / "clip")


@pytest.fixture
def t5_folder(folders, tmp_path):
    return shutil.copytree(folders / "t5", tmp_path / "t5")


def write(folder, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def row(tokenizer, text):
    ids, mask = tokenizer.encode([text], 99)
    return ids[0][mask[0]].tolist()


def test_an_added_token_is_one_id_whichever_file_says_so(clip_folder):
    plain = open_clip_tokenizer(clip_folder)
    number = plain.vocabulary
    before, after = row(plain, "a photo of")[:-1], row(plain, "on grass")[1:]
    described = {"content": "<cat-toy>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    for files in (
        {"added_tokens": {"<cat-toy>": number}},
        {"tokenizer_config": {"added_tokens_decoder": {str(number): described}}},
    ):
        folder = shutil.copytree(clip_folder, clip_folder.parent / f"{len(str(files))}")
        write(folder, **files)
        tokenizer = open_clip_tokenizer(folder)
        assert row(tokenizer, "a photo of <cat-toy> on grass") == [*before, number, *after]
        assert tokenizer.vocabulary == number + 1 and tokenizer.fingerprint != plain.fingerprint
        with pytest.raises(UserError, match=f"{number + 1} words, the network {number}"):
            tokenizer.check_fits(number)


def test_the_map_of_special_tokens_has_the_last_word_about_padding(clip_folder):
    plain = open_clip_tokenizer(clip_folder)
    write(clip_folder, tokenizer_config={"pad_token": "<|endoftext|>"}, special_tokens_map={"pad_token": "!"})
    padded = open_clip_tokenizer(clip_folder)
    assert padded.padding == json.loads((clip_folder / "vocab.json").read_text(encoding="utf-8"))["!"]
    assert plain.padding == plain.end == padded.end
    # A "!" within a text is that token too, as transformers has it.
    assert row(padded, "wow!") == [*row(padded, "wow")[:-1], padded.padding, padded.end]
    assert padded.fingerprint != plain.fingerprint


def test_special_words_in_a_caption(t5_folder, clip_folder):
    t5 = open_t5_tokenizer(t5_folder)
    dog, cat = row(t5, "a dog")[:-1], row(t5, "a cat")
    assert row(t5, "a dog </s> a cat") == [*dog, t5.end, *cat]
    assert row(t5, "a dog<pad>a cat") == [*dog, t5.padding, *cat]
    assert row(t5, "<extra_id_0> a cat") == [t5.vocabulary - 1, *cat]
    assert row(t5, "<extra_id_99>") == [t5.vocabulary - 100, t5.end]
    words = open_clip_tokenizer(clip_folder)
    between = row(words, "a dog")[1:-1], row(words, "a cat")[1:-1]
    assert row(words, "a dog<|endoftext|>a cat") == [words.start, *between[0], words.end, *between[1], words.end]


def test_sentencepiece_s_own_cuts_are_kept(t5_folder):
    words = sentencepiece.SentencePieceProcessor(model_file=str(t5_folder / "spiece.model"))
    tokenizer = open_t5_tokenizer(t5_folder)
    same = [row(tokenizer, text)[:-1] == words.encode(text)[:98] for text in texts()]
    assert sum(same) >= len(same) - 1  # of two equally probable cuts, either is right


def test_usual_files_leave_fingerprints_as_they_are(t5_folder, clip_folder):
    extra = [f"<extra_id_{i}>" for i in range(100)]
    before = open_t5_tokenizer(t5_folder).fingerprint, open_clip_tokenizer(clip_folder).fingerprint
    usual = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "additional_special_tokens": extra}
    write(t5_folder, tokenizer_config={**usual, "extra_ids": 100}, special_tokens_map=usual)
    end = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write(clip_folder, tokenizer_config={"do_lower_case": True, "pad_token": "<|endoftext|>", "eos_token": end})
    assert before == (open_t5_tokenizer(t5_folder).fingerprint, open_clip_tokenizer(clip_folder).fingerprint)
    write(t5_folder, tokenizer_config={"extra_ids": 0})
    assert open_t5_tokenizer(t5_folder).fingerprint != before[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens": {"<toy>": 5000}}, r"added_tokens\.json gives '<toy>' the id 5000, but it gets"),
        ({"added_tokens": {"a": 3000}}, r"gives 'a' the id 3000"),
        ({"added_tokens": {"<toy>": -1}}, r"added_tokens\.json is not a table of ids"),
        ({"added_tokens": ["<toy>"]}, r"added_tokens\.json is not a table"),
        ({"added_tokens": "{"}, r"added_tokens\.json cannot be read"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "not a table of tokens by their ids"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1" * 5000: {}}}}, "not a table of tokens by their ids"),
        ({"tokenizer_config": {"added_tokens_decoder": {"7": {"content": 7}}}}, r"\{'content': 7\} is no token"),
        ({"tokenizer_config": {"additional_special_tokens": 7}}, "7 are no special tokens"),
        ({"tokenizer_config": {"pad_token": None}}, "None is no token"),
        ({"tokenizer_config": {"pad_token": "\ud800"}}, "is no token"),
        ({"added_tokens": {"\ud800": 5000}}, r"added_tokens\.json is not a table of ids"),
        ({"tokenizer_config": {"padding_side": "left"}}, "padding_side is 'left'"),
        ({"tokenizer_config": {"truncation_side": "left"}}, "truncation_side is 'left'"),
        ({"tokenizer_config": {"tokenizer_class": "BertTokenizer"}}, "tokenizer_class is 'BertTokenizer'"),
        ({"tokenizer_config": {"eos_token": "<nothing>"}}, "has no <nothing>"),
        ({"special_tokens_map": []}, r"special_tokens_map\.json is not a table"),
        ({"tokenizer": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}}, "is no BPE"),
        ({"tokenizer": {"added_tokens": [{"content": "a"}]}}, "not a list of tokens with their ids"),
        ({"tokenizer": {"added_tokens": 7}}, "not a list of tokens with their ids"),
        ({"tokenizer": []}, r"tokenizer\.json cannot be read"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(clip_folder, files, message):
    write(clip_folder, **files)
    with pytest.raises(UserError, match=message):
        open_clip_tokenizer(clip_folder)


def test_texts_and_vocabularies_that_cannot_be_encoded_are_refused(t5_folder, clip_folder):
    for tokenizer in (open_t5_tokenizer(t5_folder), open_clip_tokenizer(clip_folder)):
        with pytest.raises(UserError, match="half of a character"):
            tokenizer.encode(["a \ud83d dog"], 9)
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["\u2581", -1.0]]
    write(t5_folder, tokenizer={"model": {"type": "Unigram", "vocab": pieces, "unk_id": None}})
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read as a tokenizer: .*unk_id"):
        open_t5_tokenizer(t5_folder)


def test_an_odd_number_of_extra_ids_is_refused(t5_folder):
    for number in (-1, "100", 10**9, 1.5):
        write(t5_folder, tokenizer_config={"extra_ids": number})
        with pytest.raises(UserError, match="extra_ids"):
            open_t5_tokenizer(t5_folder)


def test_a_vocabulary_with_extra_ids_of_its_own_is_refused(tmp_path):
    with (tmp_path / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts()[11:]),
            model_writer=file,
            vocab_size=200,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
            user_defined_symbols=["<extra_id_0>"],
        )
    with pytest.raises(UserError, match='"extra_ids": 0'):
        open_t5_tokenizer(tmp_path)
    write(tmp_path, tokenizer_config={"extra_ids": 0})
    tokenizer = open_t5_tokenizer(tmp_path)
    assert row(tokenizer, "<extra_id_0>a") == [3, *row(tokenizer, "a")]


def test_a_learned_token_of_clip_is_embedded(tmp_path):
    folder = write_clip(tmp_path / "clip")
    number = open_clip_tokenizer(folder).vocabulary
    write(folder, added_tokens={"<cat-toy>": number})
    learned, unlearned = clip.open_text(folder).encode(["a <cat-toy>", "a cat-toy"])[0]
    assert abs(learned[:3] - unlearned[:3]).max() > 0.01
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.token_embedding.weight"][number, 0] += 5
    save_file(tensors, folder / "model.safetensors")
    assert abs(clip.open_text(folder).encode(["a <cat-toy>"])[0][0] - learned)[2].max() > 0.01
    # Texts as a whole: by the old setting, transformers would take the token of the highest id for the end.
    clip.open(folder)
    old = {**CLIP, "text_config": {**CLIP_TEXT, "eos_token_id": 2}}
    (folder / "config.json").write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(UserError, match=r"eos_token_id is 2.*<cat-toy>"):
        clip.open(folder)
