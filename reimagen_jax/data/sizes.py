"""How large the pictures of records are, by a look at some of them: pixels that are not there cannot be learned."""

from reimagen_jax.data import images
from reimagen_jax.data.records import ImageTexts
from reimagen_jax.data.spread import spread

LOOKED_AT = 256
"""Records at most, spread evenly over all."""


def smaller(records: ImageTexts, side: int) -> str:
    """How many pictures have a side below so many pixels, in words ("3 of 10 pictures ..."); empty where none has."""
    ids = spread(len(records), LOOKED_AT)
    # One by one: photographs are large, and nothing but their headers is kept.
    sides = [min(images.size(records[i].image)) for i in ids.tolist()]
    small = [each for each in sides if each < side]
    if not small:
        return ""
    looked_at = "" if len(ids) == len(records) else " looked at"
    of = f"of {min(small)} pixels" if min(small) == max(small) else f"of {min(small)} to {max(small)} pixels"
    return f"{len(small)} of {len(ids)} pictures{looked_at} in {records.path} are smaller than {side} pixels, {of}"
