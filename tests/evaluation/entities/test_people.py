"""Entities of photographs: Parquet with a folder a category (as TIGER-Lab/Entity-Imagen) to pictures that people judge.

The data set's folders and files are as on its page (bird, car, dish, dog, landmark, starwar; one Parquet file each).
Its columns are not known here: one of pictures as Hugging Face writes them, a name and a prompt are assumed.
"""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reimagen_jax import cli
from reimagen_jax.commands import evaluate
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.entities.people import RATINGS, real_prompts
from reimagen_jax.evaluation.statistics import wilson
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from tests.samples import encoded, picture

CATEGORIES = ("bird", "car", "dish", "dog", "landmark", "starwar")
IMAGE = {"image": {"_type": "Image"}}


def write_parquet(root, name="entity", prompt="prompt", entities=2, pictures=2) -> None:
    """Two pictures of two entities in every category, each with another prompt about it."""
    for c, category in enumerate(CATEGORIES):
        rows = []
        for e in range(entities):
            for i in range(pictures):
                image = encoded(picture(100 * c + 10 * e + i, (44, 40)))
                row = {"image": {"bytes": image, "path": f"{e}_{i}.png"}, name: f"{category} number {e}"}
                rows.append(row | ({prompt: f"a {category} number {e} in weather {i}"} if prompt else {}))
        (root / category).mkdir(parents=True)
        metadata = {"huggingface": json.dumps({"info": {"features": IMAGE}})}
        table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
        pq.write_table(table, root / category / "train-00000-of-00001.parquet")
    (root / "README.md").write_text("A data set card.")


def base_of(folder, *more, **columns) -> KnowledgeBase:
    write_parquet(folder / "parquet", **columns)
    name = columns.get("name", "entity")
    records = folder / "records"
    source = ["--source", str(folder / "parquet"), "--split", "train", "--caption", name]
    assert cli.main(["prepare", *source, "--out", str(records), *more]) == 0
    assert cli.main(["index", str(records), "--out", str(folder / "index")]) == 0
    return KnowledgeBase.open(folder / "index")


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> KnowledgeBase:
    return base_of(tmp_path_factory.mktemp("real"), "--resolution", "32")


def test_every_row_becomes_a_record_that_says_what_it_shows(real):
    assert len(real) == len(CATEGORIES) * 4
    prompts = real_prompts(real)
    assert {prompt.category for prompt in prompts} == set(CATEGORIES)
    assert len(prompts) == len(real)  # two prompts about each entity
    for prompt in prompts:
        assert prompt.text.startswith(f"a {prompt.entity} in weather") and not prompt.is_caption
        assert len(prompt.keys) == 2 and all(key.startswith(f"{prompt.category}/train-") for key in prompt.keys)
    assert len(real_prompts(real, most=3)) == 3 * len(CATEGORIES)


@pytest.mark.parametrize("name", ["entity", "name", "Subject name"])
def test_columns_of_other_names_and_without_prompts(tmp_path, name):
    """The caption is the prompt then, unless templates make some."""
    base = base_of(tmp_path, name=name, prompt=None, pictures=1)
    captions = real_prompts(base)
    assert [p.text for p in captions] == [p.entity for p in captions] and all(p.is_caption for p in captions)
    made = real_prompts(base, prompts=("a {entity} in the snow", "a {entity} at sea"))
    assert len(made) == 2 * len(base) and made[0].text == "a bird number 0 in the snow"
    with pytest.raises(UserError, match=r"--prompt: record bird/.*has nothing in its field nowhere"):
        real_prompts(base, prompts=("a {nowhere}",))
    with pytest.raises(UserError, match="no text in its field nowhere"):
        real_prompts(base, entity="nowhere")


def drawn(real, model, out, *more) -> list[dict]:
    common = ["--model", str(model), "--knowledge-base", str(real.path), "--out", str(out), "--steps", "2", "--k", "1"]
    evaluate.main(["people", *common, "--num-prompts", "1", *more])
    with (out / RATINGS).open(newline="") as file:
        return list(csv.DictReader(file))


def fill(out, verdict) -> None:
    """Fills in the table; `verdict` is of (fact sheet) -> realistic, entity, text."""
    sheets = {s["picture"]: s for s in json.loads((out / "drawn.json").read_text())["pictures"]}
    with (out / RATINGS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        values = verdict(sheets[row["picture"]])
        row |= dict(zip(("realistic", "entity_right", "text_right"), map(str, values), strict=True))
    with (out / RATINGS).open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_pictures_are_drawn_in_blind_order_and_judged_by_the_papers_protocol(real, model, tmp_path, capsys):
    out = tmp_path / "out"
    rows = drawn(real, model, out)
    assert len(rows) == 6 * 2 * 4  # prompts, own and none, four pictures each
    facts = json.loads((out / "drawn.json").read_text())
    assert facts["images_per_prompt"] == 4 and "reimagen evaluate people" in facts["command"]
    sheets = {sheet["picture"]: sheet for sheet in facts["pictures"]}
    order = [sheets[row["picture"]]["source"] for row in rows]
    assert sorted(order) == ["none"] * 24 + ["own"] * 24 and order not in (sorted(order), sorted(order)[::-1])
    for row in rows:
        sheet, prompt = sheets[row["picture"]], facts["prompts"][sheets[row["picture"]]["prompt"]]
        assert (row["prompt"], row["entity"]) == (prompt["text"], prompt["entity"])
        assert sheet["neighbours"] == (prompt["keys"][:1] if sheet["source"] == "own" else [])
        for name in (row["picture"], *row["references"].split()):
            assert Image.open(out / name).size == (32, 32)
        assert row["references"] and not set(row) & {"source", "arm", "neighbours"}
    with pytest.raises(UserError, match=r"ratings.csv, line 2: entity_right is '', fill in 0 or 1"):
        evaluate.main(["judged", str(out)])
    # With its own neighbours, one picture is right in the entity, one in the text, and the dog's third in both.
    # Without, never in the entity.
    right = {0: (1, 1, 0), 1: (1, 0, 1), 2: (1, 0, 0), 3: (0, 0, 0)}

    def verdict(sheet) -> tuple[int, int, int]:
        if sheet["source"] == "none":
            return (0, 0, 1)
        return (1, 1, 1) if (sheet["image"], sheet["category"]) == (2, "dog") else right[sheet["image"]]

    fill(out, verdict)
    capsys.readouterr()
    evaluate.main(["judged", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:6] == ["neighbours", "prompts", "faithful", "aligned", "both", "best"]
    results = {(r["category"], r["source"]): r for r in json.loads((out / "results.json").read_text())["rows"]}
    assert set(results) == {(category, arm) for category in (*CATEGORIES, "all") for arm in ("own", "none")}
    assert results["dog", "own"]["best"][0] == 1.0 and results["dog", "own"]["both"][0] == 0.25
    assert results["dog", "own"]["realistic"][0] == 0.75
    assert results["bird", "own"]["best"][0] == 0.0 and results["bird", "own"]["faithful"][0] == 0.25
    assert results["all", "own"]["best"] == pytest.approx(list(wilson(1, 6)))
    assert results["all", "none"]["aligned"][0] == 1.0 and results["all", "none"]["both"][0] == 0.0


def test_a_table_of_other_pictures_is_refused(real, model, tmp_path):
    out = tmp_path / "out"
    drawn(real, model, out, "--num-images", "1", "--conditions", "own")
    fill(out, lambda sheet: (1, 1, 1))
    table = (out / RATINGS).read_text(encoding="utf-8-sig").splitlines(keepends=True)
    for lines, message in (
        (table[:-1], "has no line for 1 of 6 pictures"),
        ([*table, table[-1]], "line 8: pictures/.* is judged twice"),
        ([*table[:-1], table[-1].replace("pictures/", "others/")], "is none of the pictures"),
        (
            [*table[:-1], table[-1].replace(",1\n", ",2\n").replace(",1\r\n", ",2\r\n")],
            "realistic is '2', fill in 0 or 1",
        ),
    ):
        (out / RATINGS).write_text("".join(lines))
        with pytest.raises(UserError, match=message):
            evaluate.main(["judged", str(out)])


def test_what_was_drawn_is_checked_field_by_field(real, model, tmp_path):
    out = tmp_path / "out"
    drawn(real, model, out, "--num-images", "1", "--conditions", "own")
    fill(out, lambda sheet: (1, 1, 1))
    told = json.loads((out / "drawn.json").read_text())
    first, *others = told["pictures"]
    for change, message in (
        ({"images_per_prompt": 0}, r"drawn\.json\.images_per_prompt is 0"),
        ({"images_per_prompt": 10**12}, "does not tell of every picture once"),
        ({"prompts": []}, r"drawn\.json\.prompts is"),
        ({"sources": "own"}, r"drawn\.json\.sources is 'own'"),
        ({"pictures": [{**first, "prompt": -1}, *others]}, r"drawn\.json\.pictures\[0\]\.prompt is -1"),
        ({"pictures": [{**first, "prompt": 99}, *others]}, "does not tell of every picture once"),
        ({"pictures": [others[0], *others]}, "does not tell of every picture once"),
        ({"pictures": others}, "does not tell of every picture once"),
    ):
        (out / "drawn.json").write_text(json.dumps(told | change))
        with pytest.raises(UserError, match=message):
            evaluate.main(["judged", str(out)])
    for content in ([], 5, {}):
        (out / "drawn.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"drawn\.json"):
            evaluate.main(["judged", str(out)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--k", "0"), "at least 1"),
        (("--eta", "2"), r"--eta 2\.0: at most 1"),
        (("--num-prompts", "0"), "at least 1"),
        (("--entity", "nowhere"), "no text in its field nowhere"),
    ],
)
def test_bad_input_is_refused(real, model, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        drawn(real, model, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
