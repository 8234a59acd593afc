"""Names: pronounceable invented words that say nothing about the look.

    name(i) = onset vowel, consonant vowel, consonant vowel, ending:  the mixed-radix digits of permute(i; seed, salt)
Consonants and single vowels alternate, so different digits spell different words; the permutation's key is not the
one that gives looks, so a name is independent of its look.
"""

from functools import lru_cache

import numpy as np

from reimagen_jax.data.entityworld.looks import permute

ONSETS = ("B", "D", "F", "G", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z", "Br", "Dr", "Gl", "Kr", "Pl", "Tr")
CONSONANTS = tuple("bdfgklmnprstvz")
VOWELS = tuple("aeiou")
ENDINGS = ("", "n", "l", "r", "x")
_SALT = 0x6E616D65  # "name"
_DIGITS = (ONSETS, VOWELS, CONSONANTS, VOWELS, CONSONANTS, VOWELS, ENDINGS)
_RADICES = tuple(len(letters) for letters in _DIGITS)


@lru_cache(maxsize=65536)
def entity_name(world_seed: int, index: int) -> str:
    """Name of an entity: capitalised, 6 to 8 letters, unique within a world."""
    number = permute(np.array([index]), int(np.prod(_RADICES)), world_seed, _SALT)[0]
    digits = np.unravel_index(number, _RADICES)
    return "".join(letters[int(digit)] for letters, digit in zip(_DIGITS, digits, strict=True))
