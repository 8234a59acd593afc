"""Records of squares in noisy colours, pure ones that were made of them, and others that were not made so."""

import numpy as np
from PIL import Image

from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.records import write_records
from tests.samples import encoded

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (120, 120, 120)}


def square(colour, seed, noise=90):
    rng = np.random.default_rng(seed)
    pixels = np.array(colour) + rng.normal(scale=noise, size=3) + rng.normal(scale=20, size=(8, 8, 3))
    return encoded(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def write_squares(folder):
    """Squares of noisy colours; pure ones that were made of them; ones that are copies of what is asked about."""
    true = [
        ImageText(f"{name}{i}", square(colour, 100 * c + i), name, {"colour": name, "split": "test" if i else "other"})
        for c, (name, colour) in enumerate(COLOURS.items())
        for i in range(9)
    ]
    write_records(true, folder / "true", source="t")
    pure = [
        ImageText(
            f"{each.key}~{v}", square(COLOURS[each.text], v, noise=10), each.text, {"source": each.key, "variant": v}
        )
        for each in true
        for v in (1, 2, 3)
    ]
    write_records(pure, folder / "pure", source="p")
    write_records([each for each in true if each.key != "red0"], folder / "unmade", source="u")
    pairs = [
        ImageText("red~1", true[0].image, "red", {"source": ["red1", "red2"], "variant": 1}),
        ImageText("mixed~1", true[0].image, "red", {"source": ["red1", "blue2"], "variant": 1}),
        ImageText("red0~0", true[0].image, "red", {"source": "red0", "variant": 0}),
        ImageText("lost~1", true[0].image, "red", {"source": "lost", "variant": 1}),
    ]
    write_records(pairs, folder / "pairs", source="q")
    return folder


def means(x, y, q, ways, seed):
    """Who learns the mean of each class."""
    centre = np.stack([x[y == c].mean(axis=(0, 1, 2)) for c in range(ways)])
    return np.linalg.norm(q.mean(axis=(1, 2))[:, None] - centre, axis=-1).argmin(axis=1)
