"""The report: one file that needs nothing else, with every image as it was drawn, and nothing run that it quotes."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.evaluation.ratings import Ratings, Row
from reimagen_jax.evaluation.statistics import Curve, wilson
from reimagen_jax.evaluation.sweeps import Sweep
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.reports.report import PAGE, PICTURE, Report, render, write_report
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig
from reimagen_jax.systems.request import Neighbour

ETAS = (0.0, 0.5, 1.0)
EVIL = """<script>alert("1")</script> & 'others' <img src=x onerror=y>"""
VOID = {"meta", "img", "br", "link", "input", "hr"}


def noise(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def curve(name: str, *means: int) -> Curve:
    return Curve(name, ETAS, tuple(wilson(mean, 10) for mean in means[1:]), wilson(means[0], 10), 0.97)


def report(num_prompts: int = 3, num_seeds: int = 2, rated: bool = True, side: int = 16) -> Report:
    draw = np.random.default_rng(0)
    prompts = tuple(
        Prompt(
            f"prompt {p} {EVIL}",
            tuple(
                Neighbour(noise(10 * p + j, side), f"near {EVIL}", [3.2, float("nan")][j], f"key{j}") for j in range(p)
            ),
            target=noise(99, side) if p == 1 else None,
        )
        for p in range(num_prompts)
    )
    image = draw.integers(0, 256, (num_prompts, num_seeds, 4, side, side, 3), dtype=np.uint8)
    verdict = draw.random((2, num_prompts, num_seeds, 4)) < 0.5
    curves = (curve("faithful", 0, 9, 7, 3), curve("aligned", 9, 3, 8, 9))
    ratings = Ratings(curves, verdict, np.arange(num_prompts) != 1, "How to read it.", "The rater reads well.")
    return Report(
        title=f"Title {EVIL}",
        introduction="Introduction.",
        sweep=Sweep(prompts, ETAS, image, GuidedSamplerConfig(), 0),
        command=f"reimagen sweep --prompt '{EVIL}'",
        settings={"Model": {"name": EVIL, "step": "12"}, "Versions": {"jax": "1.2.3"}},
        ratings=ratings if rated else None,
        why_unrated="" if rated else "There are no curves because of the moon.",
        rows=(Row("with", (wilson(9, 10), wilson(8, 10)), 10),) if rated else (),
    )


def test_the_page_may_load_and_run_nothing():
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', render(report()))[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules.keys() == {"default-src", "img-src", "style-src", "base-uri", "form-action"}
    assert "http" not in policy


class Reader(HTMLParser):
    """Collects images and text, and checks that tags nest."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.images, self.text, self.classes = [], [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.classes += (attributes.get("class") or "").split()
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def pixels(source: str) -> bytes:
    kind, data = source.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).tobytes()


@pytest.mark.parametrize("rated", [True, False])
def test_the_page_needs_nothing_and_runs_nothing(rated):
    page = render(report(rated=rated))
    reader = Reader(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not re.search(r"https?://|url\(|@import|javascript:", page)
    assert all(image["src"].startswith("data:") for image in reader.images)
    assert "prefers-color-scheme: dark" in page and "image-rendering: pixelated" in page


def test_every_image_is_on_the_page_as_it_was_drawn():
    shown = report()
    found = [pixels(image["src"]) for image in Reader(render(shown)).images]
    expected = []
    for prompt, drawn_SCHWC in zip(shown.sweep.prompts, shown.sweep.image_PSCHWC, strict=True):
        expected += [hit.image.tobytes() for hit in prompt.neighbours]
        for s, row in enumerate(drawn_SCHWC):
            expected += [image.tobytes() for image in row]
            expected += [prompt.target.tobytes()] if prompt.target is not None and s == 0 else []
    assert found == expected


def test_what_people_wrote_is_text_and_is_there():
    text = "".join(Reader(render(report())).text)
    for said in (f"Title {EVIL}", f"prompt 2 {EVIL}", f"near {EVIL}", f"reimagen sweep --prompt '{EVIL}'", "1.2.3"):
        assert said in text
    assert "score 3.2" in text and "given by hand" in text and "No neighbours were found" in text


def test_marks_say_what_the_rater_said():
    shown = report()
    reader = Reader(render(shown))
    rated = shown.ratings.verdict_VPSC[:, shown.ratings.applies_P]
    # Beside the images', each legend has a filled mark for each of the two curves: prompts, results, numbers.
    assert reader.classes.count("yes") == rated.sum() + 3 * 2
    assert reader.classes.count("mark") == rated.size + 3 * 2


def test_without_a_rater_a_sentence_stands_for_the_curves():
    page = render(report(rated=False))
    assert "There are no curves because of the moon." in page
    assert "<svg" not in page and 'class="mark' not in page and 'id="results"' not in page


def test_only_small_images_are_drawn_as_pixels():
    assert 'class="pixels"' in render(report(1))
    assert 'class="pixels"' not in render(report(1, side=128))


@pytest.mark.parametrize("rated", [True, False])
def test_page_and_picture_are_written(tmp_path, rated):
    shown = report(rated=rated)
    write_report(shown, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([PAGE, PICTURE])
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == render(shown)
    picture = np.asarray(Image.open(tmp_path / PICTURE))
    for image in (shown.sweep.image_PSCHWC[2, 1, 3], shown.sweep.prompts[2].neighbours[1].image):
        # Every image is in the picture, six times enlarged: it is there if its rows of pixels are, in one place.
        assert image.repeat(6, axis=1)[0].tobytes() in picture.tobytes()
