"""Edits of the shipped model measured by the rater, and the pictures of them on the pages.

    python tools/edits.py --pictures reimagen_jax/inference/figures --together experiments/figures/edits.png
    python tools/edits.py --measure --pairs 16 --out runs/edits.json

Prompts are captions of a small EntityWorld of another seed than the training's, made in memory; a pair is a record and
the entity of another, of the same category. Faithful: category and all of the look are as asked; aligned: what the
caption tells of the scene is.
"""

import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL.Image
import PIL.ImageDraw
import tyro
from scipy import ndimage

import reimagen_jax as rj
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.images import decode
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.data.spread import spread
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.evaluation.ratings import VERDICTS, judge, truth
from reimagen_jax.files import write_json
from reimagen_jax.inference import edits
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.reports.drawing import PAPER, blank, stack
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Edit

Kind = Literal["swap", "inpaint", "image", "vary", "interpolate"]
SETTINGS = {"num_steps": 25, "guidance": "interleaved"}
"""With few steps, strengths are few too."""
WORLD = World(num_entities=64, num_images=600, seed=1)
SIZES = {"small": 0.56, "medium": 0.70, "large": 0.86}
OFFSETS = {"small": 0.17, "medium": 0.14, "large": 0.10}
"""Of bodies, as shares of the frame (data/entityworld/render.py)."""


@dataclass(frozen=True)
class Edits:
    """What to do."""

    measure: bool = False
    """Rate edits of many images."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    """Those that are rated."""
    pairs: int = 16
    """How many images of each kind are rated."""
    out: Path | None = None
    """File for the numbers."""
    pictures: Path | None = None
    """Folder for a picture of each edit."""
    together: Path | None = None
    """File for all of them in one."""
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """A record, its prompt, and the prompt of another entity in its scene."""

    image: np.ndarray
    prompt: Prompt
    other: Prompt

    @property
    def name(self) -> str:
        """Of the other entity."""
        return self.other.query

    @property
    def mask(self) -> np.ndarray:
        """White where the body is: uint8 [32, 32]."""
        scene = self.prompt.attributes["scene"]
        side = SIZES[scene["size"]] + 0.06
        centre = 0.5 + {"left": -1, "centre": 0, "right": 1}[scene["position"]] * OFFSETS[scene["size"]]
        edges = (np.arange(32) + 0.5) / 32
        mask = np.outer(edges > 0.97 - side, np.abs(edges - centre) < 0.5 * side)
        return np.uint8(255) * mask


def pairs_of(base: KnowledgeBase, number: int) -> list[Pair]:
    """Records spread over the world, each with an entity of the same category that follows."""
    records = [record for record in base.records if truth(record.attributes).tells.all()]
    pairs = []
    for i in spread(len(records), number):
        first, names = records[i], {records[i].attributes["entity"]}
        alike = [r for r in records if r.attributes["category"] == first.attributes["category"]]
        second = next(r for r in alike[alike.index(first) :] + alike if r.attributes["entity"] not in names)
        names = [record.attributes["entity"] for record in (first, second)]
        asked = [
            Prompt(first.text, attributes=first.attributes, key=first.key, source=base.records.source, query=names[0]),
            Prompt(
                first.text.replace(*names),
                attributes={**first.attributes, "look": second.attributes["look"]},
                query=names[1],
            ),
        ]
        pairs.append(Pair(decode(first.image, 32), *rj.ask(base, asked, k=2, resolution=32)))
    return pairs


def rated(rater: Rater, images: np.ndarray, prompts: list[Prompt]) -> dict[str, float]:
    """Shares of images that are faithful and aligned."""
    said = judge(images, [truth(prompt.attributes) for prompt in prompts], rater)
    return dict(zip(VERDICTS, said.mean(axis=1).tolist(), strict=True))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two sets of images, in levels of grey."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def measured(model, pairs: list[Pair], kinds: tuple[Kind, ...], seed: int) -> dict:
    """The numbers."""
    rater, settings = Rater.open(), {"seed": seed, "batch_size": len(pairs), **SETTINGS}
    firsts, others = [pair.prompt for pair in pairs], [pair.other for pair in pairs]
    found: dict = {"images a row": len(pairs)}

    def draw(plan: edits.Plan, **more) -> np.ndarray:
        return rj.edit(model, plan, **settings, **more).image_PSHWC

    def on_own(kind: str, edit_of) -> edits.Plan:
        """Every pair's other prompt, drawn on an image of the pair's own."""
        requests = [dataclasses.replace(p.other.request(i), edit=edit_of(p)) for i, p in enumerate(pairs)]
        rows = (edits.Row(p.other, (request,), {}) for p, request in zip(pairs, requests, strict=True))
        return edits.Plan(kind, tuple(rows), {})

    def say(name: str, numbers: dict) -> None:
        found[name] = numbers
        print(name, json.dumps(numbers), file=sys.stderr, flush=True)

    if "swap" in kinds:
        plain, swapped = np.moveaxis(draw(edits.swapping(firsts, others)), 1, 0)
        again = rj.draw(model, others, seed=seed + 1, batch_size=len(pairs), k=2, **SETTINGS).stages[-1]
        say("first", rated(rater, plain, firsts))
        say("swap", rated(rater, swapped, others) | {"as the first": rated(rater, swapped, firsts)["faithful"]})
        say("levels of grey from the first", {"swapped": apart(plain, swapped), "of another seed": apart(plain, again)})
        for strength in (0.8, 0.6):
            drawn = draw(edits.swapping(firsts, others, strength=strength))
            say(
                f"swap, strength {strength}",
                rated(rater, drawn[:, 1], others) | {"apart": apart(*np.moveaxis(drawn, 1, 0))},
            )
    if "inpaint" in kinds:
        for repeats in (1, 3, 10):
            drawn = draw(on_own("inpaint", lambda p: Edit(p.image, p.mask)), repeats=repeats)[:, 0]
            kept = [
                np.array_equal(image[p.mask == 0], p.image[p.mask == 0]) for image, p in zip(drawn, pairs, strict=True)
            ]
            edge = np.mean([seam(image, pair.mask) for image, pair in zip(drawn, pairs, strict=True)])
            numbers = {"kept exactly": float(np.mean(kept)), "seam": float(edge)}
            say(f"inpaint, repeats {repeats}", rated(rater, drawn, others) | numbers)
        say("seam of the records", {"levels": float(np.mean([seam(pair.image, pair.mask) for pair in pairs]))})
    if "image" in kinds:
        for strength in (0.4, 0.6, 0.8, 1.0):
            drawn = draw(on_own("image", lambda p, strength=strength: Edit(p.image, strength=strength)))[:, 0]
            numbers = {"as before": rated(rater, drawn, firsts)["faithful"]}
            numbers["apart"] = apart(drawn, np.stack([p.image for p in pairs]))
            say(f"image, strength {strength}", rated(rater, drawn, others) | numbers)
    if "vary" in kinds:
        for strength in (0.4, 0.6, 0.8):
            first, varied = np.moveaxis(draw(edits.variations(firsts, strength=strength, num_images=1)), 1, 0)
            say(f"vary, strength {strength}", rated(rater, varied, firsts) | {"apart": apart(first, varied)})
    if "interpolate" in kinds:
        between = [
            dataclasses.replace(a, neighbours=(a.neighbours[0], b.neighbours[0]))
            for a, b in zip(firsts, others, strict=True)
        ]
        drawn = draw(edits.interpolation(between, frames=5))
        looks = {
            name: np.stack([truth(prompt.attributes).look for prompt in prompts])
            for name, prompts in (("first", firsts), ("second", others))
        }
        for frame in range(5):
            read = rater.read(drawn[:, frame])
            shares = {f"like the {name}": float(read.look_right(look).mean()) for name, look in looks.items()}
            say(f"interpolate, weight {frame / 4} of the second", shares)
    return found


def seam(image: np.ndarray, mask: np.ndarray) -> float:
    """The mean step across the border of a mask, in levels of grey."""
    image = image.astype(float)
    steps = [
        np.abs(np.diff(image, axis=axis)).mean(axis=-1)[np.diff(mask.astype(int), axis=axis) != 0] for axis in (0, 1)
    ]
    return float(np.concatenate(steps).mean())


def brightness(image: np.ndarray) -> float:
    """Of the sky, 0 to 1."""
    return float(image[:4].mean()) / 255


def background(image: np.ndarray) -> np.ndarray:
    """White around the body, which is what no fill from the border of a bright image reaches: uint8 [32, 32]."""
    picture = PIL.Image.fromarray(image)
    for corner in [(x, y) for x in (0, 31) for y in range(32)] + [(x, y) for x in range(32) for y in (0, 31)]:
        PIL.ImageDraw.floodfill(picture, corner, (255, 0, 255), thresh=60)
    left = np.any(np.asarray(picture) != (255, 0, 255), axis=-1)
    parts, number = ndimage.label(left)
    largest = 1 + int(np.argmax(ndimage.sum(left, parts, range(1, number + 1))))
    return np.where(parts == largest, 0, 255).astype(np.uint8)


def plans_of(pairs: list[Pair]) -> dict[str, edits.Plan]:
    """One of each kind."""
    a, b = pairs[0], pairs[1]
    around = next(hit.image for hit in a.other.neighbours if brightness(hit.image) > 0.5)
    between = dataclasses.replace(a.prompt, neighbours=(a.prompt.neighbours[0], a.other.neighbours[0]))
    text = f"a small {a.name} ({a.prompt.attributes['category']}) on the left, in the snow at noon"
    scene, place = [Prompt(text, a.other.neighbours)], {"scale": 0.9, "at": (0.0, 1.0)}
    return {
        "image": edits.image_to_image([a.other], a.image, strength=0.7, num_images=3),
        "inpaint": edits.inpainting([a.other], a.image, a.mask, num_images=3),
        "outpaint": edits.outpainting(scene, around, [32], **place, mask=background(around), num_images=3),
        "vary": edits.variations([b.prompt], strength=0.7, num_images=4),
        "interpolate": edits.interpolation([between], frames=5),
        "swap": edits.swapping([b.prompt], [b.other]),
    }


def main() -> None:
    """Parses and runs."""
    asked = tyro.cli(Edits)
    model = rj.open_model()
    with tempfile.TemporaryDirectory() as folder:
        source = WorldSource(WORLD, resolution=32)
        records = write_records(source.items(), Path(folder) / "records", source=source.name)
        base = KnowledgeBase.build(records, Path(folder) / "index")
        if asked.measure:
            found = measured(model, pairs_of(base, asked.pairs), asked.kinds, asked.seed)
            if asked.out is not None:
                write_json(asked.out, found)
        if asked.pictures is not None or asked.together is not None:
            grids = {
                name: rj.edit(model, plan, seed=asked.seed, batch_size=4, **SETTINGS).grid()
                for name, plan in plans_of(pairs_of(base, 8)).items()
            }
            for name, grid in grids.items() if asked.pictures is not None else ():
                asked.pictures.mkdir(parents=True, exist_ok=True)
                grid.quantize(128).save(asked.pictures / f"{name}.png", optimize=True)
            if asked.together is not None:
                whole = stack([blank(max(grid.width for grid in grids.values()), 1, PAPER), *grids.values()])
                whole.quantize(128).save(asked.together, optimize=True)


if __name__ == "__main__":
    main()
