"""Small sets of captioned pictures in the layouts of those that protocols are of."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reimagen_jax.data.image_text import ImageText
from tests.samples import write_folder


def write_coco(folder: Path, records: Sequence[ImageText], part: str = "val2014", first: int = 100) -> Path:
    """Records in COCO's published layout, ids from `first` on: pictures in PART, two captions of each."""
    (folder / part).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, record in enumerate(records, first):
        name = f"COCO_{part}_{number:012d}.jpg"
        (folder / part / name).write_bytes(record.image)
        images.append({"id": number, "file_name": name, "license": 3, "coco_url": f"http://images.org/{name}"})
        for text in (record.text, f"{record.text} again"):
            annotations.append({"id": len(annotations), "image_id": number, "caption": text})
    annotations.sort(key=lambda each: (each["id"] % 2, -each["id"]))  # not picture by picture
    told = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    path = folder / "annotations" / f"captions_{part}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def write_wiki(folder: Path, parts: dict[str, Sequence[ImageText]]) -> Path:
    """Records in the layout of WikiImages (`data/sources/folder.py`), by their split."""
    lines, pictures, number = [], dict[str, Image.Image | bytes](), 30000000
    for split, records in parts.items():
        for record in records:
            name = f"images/{number}.jpg"
            pictures[name] = record.image
            entity, url = record.attributes["entity"], f"https://commons.org/{number}"
            lines.append({"file_name": name, "text": record.text, "entity": entity, "url": url, "split": split})
            number += 1
    return write_folder(folder, lines, pictures)
