"""Prompts: where they come from, and that a record never finds itself."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reimagen_jax.data.records import write_records
from reimagen_jax.errors import UserError
from reimagen_jax.inference.prompts import Prompt, asking_by, from_file, from_records, with_retrieved
from reimagen_jax.inference.requests import from_file as reference
from reimagen_jax.inference.requests import pinned
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from tests.samples import encoded, example, picture, records_of
from tests.tiny import TINY


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa cat\n\n  ein Kätzchen  \n", encoding="utf-8")
    assert [prompt.text for prompt in from_file(path)] == ["a cat", "ein Kätzchen"]


def test_a_json_file_keeps_the_other_fields_as_attributes(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"text": "a cat", "look": [1, 2]}) + '\n{"prompt": "a dog"}\n')
    first, second = from_file(path)
    assert (first.text, first.attributes, second.text) == ("a cat", {"look": [1, 2]}, "a dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b" \n\n", "no prompt"),
        ("p.txt", b"caf\xe9", "not UTF-8"),
        ("p.jsonl", b'{"text": "a"}\n{"text": ', "p.jsonl:2 is not JSON"),
        ("p.jsonl", b'{"text": ""}', "p.jsonl:1 has no text"),
        ("p.jsonl", b'["a"]', "p.jsonl:1 has no text"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        from_file(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        from_file(tmp_path / "nothing.txt")


def test_records_are_spread_evenly_and_keep_their_images(tmp_path):
    records = records_of(tmp_path / "records", [f"word{i} thing" for i in range(10)])
    prompts = from_records(records, 4, 8)
    assert [prompt.key for prompt in prompts] == ["k0", "k3", "k6", "k9"]
    assert len(from_records(records, 99, 8)) == 10
    assert all(prompt.target.shape == (8, 8, 3) for prompt in prompts)


def test_a_record_finds_neither_itself_nor_its_picture_and_others_take_their_place(tmp_path):
    """k0's picture is in the knowledge base six times under other keys, more often than k hits could cover."""
    copies = [replace(example(0, f"a red thing {i}"), key=f"copy{i}") for i in range(6)]
    others = [example(1, "a red thing other"), example(2, "a red thing that is long another")]
    base = KnowledgeBase.build(
        write_records([example(0, "a red thing"), *copies, *others], tmp_path / "r", source="test"), tmp_path / "index"
    )
    (prompt,) = with_retrieved(from_records(base.records, 1, 8), base, 2, 8)
    assert [hit.key for hit in prompt.neighbours] == ["k1", "k2"]
    (three,) = with_retrieved(from_records(base.records, 1, 8), base, 3, 8)
    assert len(three.neighbours) == 2
    (free,) = with_retrieved([Prompt("a red thing")], base, 2, 8)
    assert free.neighbours[0].key == "k0"


def test_the_same_record_at_another_resolution_is_still_itself(tmp_path):
    base = KnowledgeBase.build(records_of(tmp_path / "r", ["a red thing", "a red cat"], first_seed=5), tmp_path / "i")
    own = Prompt("a red thing", target=np.zeros((8, 8, 3), np.uint8), key="k5", source="test")
    assert [hit.key for hit in with_retrieved([own], base, 1, 8)[0].neighbours] == ["k6"]
    stranger = replace(own, source="another set with the same keys")
    assert [hit.key for hit in with_retrieved([stranger], base, 1, 8)[0].neighbours] == ["k5"]


def test_neighbours_by_hand_come_first_and_are_not_found_again(tmp_path):
    """A reference that shows k1's picture, and k3 pinned; k0 is the best hit unless it is banned."""
    texts = ["a red thing", "a red thing too", "a red thing of mine", "a blue bird", "a red thing somewhere far away"]
    base = KnowledgeBase.build(records_of(tmp_path / "r", texts), tmp_path / "index")
    (tmp_path / "mine.png").write_bytes(encoded(picture(1)))
    given = (reference(tmp_path / "mine.png", "my thing", 8), *pinned(base, ["k3"], 8))

    def keys(k, *, of=None, **chosen):
        (prompt,) = with_retrieved([of or Prompt("a red thing")], base, k, 8, **chosen)
        return [hit.key for hit in prompt.neighbours]

    assert keys(2, given=given) == ["mine.png", "k3"]
    assert keys(4, given=given) == ["mine.png", "k3", "k0", "k2"]
    assert keys(4, given=given, ban=["k0"]) == ["mine.png", "k3", "k2", "k4"]
    assert keys(1, given=given) == ["mine.png"]
    assert keys(9, given=given, ban=["k0"]) == ["mine.png", "k3", "k2", "k4"]
    own = replace(from_records(base.records, 5, 8)[3], query="a red thing")
    assert keys(2, of=own, given=given) == ["mine.png", "k0"], "a pinned record is not its own neighbour"
    with pytest.raises(UserError, match="no record with the key 'k9'"):
        keys(1, given=given, ban=["k9"])


def test_records_of_several_sources_are_told_apart(tmp_path):
    first = records_of(tmp_path / "first", ["a red thing"], source="first")
    second = records_of(tmp_path / "second", ["a red thing"], source="second", first_seed=0)
    other = write_records([example(5, "a red thing", key="k0")], tmp_path / "other", source="other")
    base = KnowledgeBase.build([first, other], tmp_path / "index")
    own = Prompt("a red thing", key="k0", source="first")
    assert [hit.source for hit in with_retrieved([own], base, 2, 8)[0].neighbours] == ["other"]
    (pictured,) = with_retrieved(from_records(second, 1, 8), base, 2, 8)
    assert [hit.source for hit in pictured.neighbours] == ["other"], "the same picture under another name"


def test_asking_by_an_attribute_asks_for_nothing_else(tmp_path):
    base = KnowledgeBase.build(records_of(tmp_path / "r", ["in the city at noon", "Zuvalo"]), tmp_path / "index")
    prompt = Prompt("Zuvalo in the city at noon", attributes={"entity": "Zuvalo", "number": 3})
    assert with_retrieved([prompt], base, 1, 8)[0].neighbours[0].key == "k0"
    (asked,) = with_retrieved(asking_by([prompt], "entity"), base, 2, 8)
    assert [hit.key for hit in asked.neighbours] == ["k1"]
    with pytest.raises(UserError, match=r"--query-by number.*the texts it has: entity"):
        asking_by([prompt], "number")


def test_the_baseline_has_no_neighbours_and_text_guidance_only(tmp_path):
    base = KnowledgeBase.build(records_of(tmp_path / "r", ["a red thing", "a red cat"]), tmp_path / "index")
    (prompt,) = with_retrieved([Prompt("a red cat")], base, 2, 8)
    with_neighbours, without = prompt.request(7, eta=0.25, text_weight=3.0), prompt.baseline(7)
    assert len(with_neighbours.neighbours) == 2 and with_neighbours.guidance == {"eta": 0.25, "text_weight": 3.0}
    assert replace(with_neighbours, neighbours=(), guidance={}) == without
    assert (without.prompt, without.index, without.start) == ("a red cat", 7, None)
    inputs = ReImagenFeed(TINY).collate([replace(with_neighbours, neighbours=()), without], TINY.system.sampler)
    assert inputs.eta_B.tolist() == [1.0, 1.0], "text guidance only"
