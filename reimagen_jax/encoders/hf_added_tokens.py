"""Tokens beside a vocabulary: what the files around a published tokenizer say, and how they change what a text becomes.

A text is first cut at the tokens that were added or are special (`</s>`, `<extra_id_0>`, a learned `<cat-toy>`), and
only what lies between them is spelt by the vocabulary. Which these are stands in up to four files, read in the order of
transformers (5.23):

    tokenizer_config.json     named tokens (bos_token, pad_token, ...), further special ones, `added_tokens_decoder`
    special_tokens_map.json   named tokens of older folders; has the last word, unless there is an added_tokens_decoder
    added_tokens.json         added tokens of older folders: token -> id; likewise
    tokenizer.json            its own list of added tokens; likewise

so Stable Diffusion 2, whose map says so, pads with "!" = 0, and a "!" within a text is that token too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
JSON = "tokenizer.json"
ANY_CLASS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that only say: as tokenizer.json has it."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
FURTHER = ("extra_special_tokens", "additional_special_tokens")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Stated:
    """The tokens that files state."""

    added: Sequence[tuple[int, AddedToken, Path]]
    """Ids, tokens and the files that say so, ids ascending."""
    named: Mapping[str, AddedToken | str]
    """Special tokens by their part: eos_token, pad_token, ...; those without flags as text."""
    further: Sequence[AddedToken | str] | None
    """Special tokens without a part; None where no file has any."""
    settings: Mapping[str, Any]
    """tokenizer_config.json."""

    @property
    def whole(self) -> bool:
        """Whether special tokens within a text stand for themselves (`split_special_tokens` spells them out)."""
        return not self.settings.get("split_special_tokens", False)

    def add_to(self, words: tokenizers.Tokenizer, usual: Sequence[AddedToken]) -> None:
        """Adds all of them; `usual` are the further ones where none are stated.

        Raises `UserError` when a token gets another id than its file says.
        """
        tokens: list[AddedToken | str] = [token for _, token, _ in self.added]
        contents, named = set(map(str, tokens)), set(map(str, self.named.values()))
        for token in (*self.named.values(), *(usual if self.further is None else self.further)):
            # A token that is given both with flags and without is added twice: the library goes by the last.
            if str(token) not in contents and token not in tokens:
                tokens.append(token)
        made = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
        for token in made:
            token.special = token.special or token.content in named
        words.add_tokens(made)
        words.encode_special_tokens = not self.whole
        for number, token, file in self.added:
            if (got := words.token_to_id(token.content)) != number:
                raise UserError(
                    f"{file} gives {token.content!r} the id {number}, but it gets {got}: ids of added tokens go on "
                    "where the vocabulary ends, without gaps, and no other"
                )


def read_stated(folder: Path, name: str, usual: Mapping[str, str], listed: Sequence[Any] = ()) -> Stated:
    """What the files in `folder` state about a tokenizer of the class `name`.

    `usual` are its named tokens where nothing is said, `listed` the added tokens of tokenizer.json. Raises `UserError`
    for what is damaged, of another class, or asks for padding or cutting on the left.
    """
    settings = _table(folder / CONFIG)
    kind = settings.get("tokenizer_class")
    known = (None, name, f"{name}Fast", *ANY_CLASS)
    require(kind in known, f"{folder / CONFIG} is that of another tokenizer: tokenizer_class is {kind!r}, not {name!r}")
    for side in ("padding_side", "truncation_side"):
        require(
            settings.get(side, "right") == "right",
            f"{folder / CONFIG}: {side} is {settings.get(side)!r}, but texts are cut and filled up on the right here",
        )
    if "added_tokens_decoder" in settings:
        older, added = {}, _decoder(folder / CONFIG, settings["added_tokens_decoder"])
    else:
        older = _table(folder / MAP)
        added = _listed(folder / JSON, listed)
    said = {**settings, **older}
    named = {part: _token(value, folder / CONFIG) for part, value in _named({**usual, **said}).items()}
    lists = {key: _further(said[key], folder) for key in FURTHER if said.get(key)}
    further = next(iter(lists.values()), None)
    if "added_tokens_decoder" not in settings:
        # Theirs, too, does not look into the map's list for what is special here.
        special = {str(named[part]) for part in NAMED if part in named}
        stated = lists.get(FURTHER[0], []) + _further(settings.get(FURTHER[1]) or [], folder)
        special |= set(map(str, stated))
        added |= _older(folder / ADDED, special, known=added)
    return Stated([(i, *added[i]) for i in sorted(added)], named, further, settings)


def _named(said: Mapping[str, Any]) -> dict[str, Any]:
    """The named tokens, in the order in which they get ids where they are new."""
    own = [key for key in said if key.endswith("_token") and key not in NAMED and isinstance(said[key], (str, dict))]
    return {key: said[key] for key in (*NAMED, *own) if key in said}


def _table(file: Path) -> dict[str, Any]:
    settings = read_json(file, "the settings of a tokenizer") if file.is_file() else {}
    require(isinstance(settings, dict), f"{file} is not a table of settings")
    return settings


def _token(value: Any, file: Path) -> AddedToken | str:
    """A special token: text, or a table of text and flags."""
    if _is_text(value):
        return value
    token = _described(value, file)
    token.special = True
    return token


def _described(value: Any, file: Path) -> AddedToken:
    table = value if isinstance(value, dict) else {}
    flags = {flag: table[flag] for flag in FLAGS if flag in table}
    content, plain = table.get("content"), all(isinstance(flag, bool) for flag in flags.values())
    require(_is_text(content) and plain, f"{file}: {value!r} is no token")
    return AddedToken(content, **flags)


def _further(value: Any, folder: Path) -> list[AddedToken | str]:
    """A list of tokens, or a table of tokens by names."""
    values = list(value.values()) if isinstance(value, dict) else value
    require(isinstance(values, list), f"{folder / CONFIG}: {value!r} are no special tokens")
    return [_token(one, folder / CONFIG) for one in values]


def _decoder(file: Path, table: Any) -> dict[int, tuple[AddedToken, Path]]:
    """`added_tokens_decoder`: id -> token."""
    numbered = isinstance(table, dict) and all(key.isdecimal() and len(key) < 10 for key in table)
    require(numbered, f"{file}: added_tokens_decoder is not a table of tokens by their ids")
    return {int(key): (_described(value, file), file) for key, value in table.items()}


def _listed(file: Path, listed: Sequence[Any]) -> dict[int, tuple[AddedToken, Path]]:
    """`added_tokens` of tokenizer.json: tokens with their ids."""
    numbered = all(isinstance(one, dict) and _is_id(one.get("id")) for one in listed)
    require(numbered, f"{file}: added_tokens is not a list of tokens with their ids")
    return {one["id"]: (_described(one, file), file) for one in listed}


def _older(file: Path, special: set[str], known: Mapping[int, Any]) -> dict[int, tuple[AddedToken, Path]]:
    """added_tokens.json: token -> id; what tokenizer.json lists as well has its flags there."""
    table = _table(file)
    require(
        all(map(_is_id, table.values())) and all(map(_is_text, table)), f"{file} is not a table of ids by their tokens"
    )
    return {
        number: (AddedToken(content, special=content in special, normalized=content not in special), file)
        for content, number in table.items()
        if number not in known or known[number][0].content != content
    }


def _is_text(value: Any) -> bool:
    """Not empty, and no halves of characters."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
