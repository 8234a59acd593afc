"""The Beam pipeline with the local runner equals the search on one machine to the last bit.

It needs `pip install '.[test,beam]'`.
"""

import json
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to

from reimagen_jax.retrieval import allpairs
from reimagen_jax.retrieval.analysis import ENGLISH_STOP_WORDS, Analyser
from reimagen_jax.retrieval.beam import AllPairs
from tests.retrieval.test_allpairs import corpus, zipf


def expected(ids: np.ndarray, texts: list[str], k: int, **settings) -> list[tuple[int, list[tuple[int, float]]]]:
    """By `allpairs.neighbours`, of texts in the order of their ids, with these ids."""
    found = allpairs.neighbours(texts, k, **settings)
    return [
        (int(ids[i]), [(int(ids[j]), float(score)) for j, score in zip(row, scores, strict=True) if j >= 0])
        for i, (row, scores) in enumerate(zip(*found, strict=True))
    ]


CORPORA = {
    "coco": corpus("coco.jsonl.gz"),
    "cldr": corpus("cldr.jsonl.gz"),
    "zipf": zipf(1500),
    "odd": [
        "",
        "a",
        "a",
        "lonely words",
        "👩‍🚀 astronaut",
        "an ASTRONAUT",
        "...",
        "ß ss SS",
    ],
    "no two alike": ["one", "two", "three"],
}


@pytest.mark.parametrize(
    ("name", "k", "num_parts", "group", "settings"),
    [
        ("coco", 2, 3, 2, {}),
        ("coco", 5, 1, 8, {"analyser": Analyser(stop_words=ENGLISH_STOP_WORDS)}),
        ("cldr", 3, 4, 1, {"k1": 1.2, "b": 0.4}),
        ("zipf", 2, 7, 3, {}),
        ("odd", 3, 2, 1, {}),
        ("no two alike", 2, 5, 1, {}),
    ],
)
def test_equals_one_machine_to_the_last_bit(tmp_path, name, k, num_parts, group, settings):
    texts = CORPORA[name]
    ids = 2**40 + 3 * np.arange(len(texts))  # larger than 32 bits, with gaps
    shuffled = np.random.default_rng(0).permutation(len(texts))
    with beam.Pipeline() as pipeline:
        given = pipeline | beam.Create([(int(ids[i]), texts[i]) for i in shuffled])
        found = given | AllPairs(str(tmp_path), k, num_parts, group, **settings)
        assert_that(found, equal_to(expected(ids, texts, k, **settings)))


def test_equal_ids_are_refused(tmp_path):
    with pytest.raises(Exception, match="two texts have the id 7"), beam.Pipeline() as pipeline:
        _ = pipeline | beam.Create([(7, "a cat"), (8, "a dog"), (7, "a cow")]) | AllPairs(str(tmp_path), num_parts=2)


@pytest.mark.parametrize("name", ["k", "num_parts", "group"])
def test_settings_have_to_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        AllPairs("folder", **{name: 0})


def test_command_line_with_two_processes(tmp_path):
    texts = CORPORA["coco"][:400]
    lines = [json.dumps({"id": i, "caption": text + " \ud800"}) for i, text in enumerate(texts)]  # half a pair
    (tmp_path / "a-0.jsonl").write_text("\n".join(lines[:140]))
    (tmp_path / "a-1.jsonl").write_text("\n".join(lines[140:]))
    (tmp_path / "stop.txt").write_text("a\nthe\n")
    (tmp_path / "work").mkdir()
    options = f"--captions {tmp_path}/a-*.jsonl --out {tmp_path}/out --work {tmp_path}/work --parts 3 --group 2"
    options += f" --stop-words {tmp_path}/stop.txt --direct_running_mode multi_processing --direct_num_workers 2"
    subprocess.run([sys.executable, "-m", "reimagen_jax.retrieval.beam", *options.split()], check=True)
    rows = [json.loads(line) for file in tmp_path.glob("out*") for line in file.read_text().splitlines()]
    told = [(row["id"], list(zip(row["neighbours"], row["scores"], strict=True))) for row in rows]
    assert sorted(told) == expected(np.arange(400), texts, 2, analyser=Analyser(stop_words=("a", "the")))
