"""What folders of the commands tell of their pictures; what is stored of it tells raters nothing of the systems."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.human import contents
from reimagen_jax.evaluation.human.drawn import common, halves, read_systems
from reimagen_jax.evaluation.human.study import Study
from reimagen_jax.files import mark
from tests.human import ENTITIES, PROMPTS, SPLITS, base_of, draw, study_of
from tests.samples import example, picture


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_of(tmp_path_factory.mktemp("base"))


def pixels(study, name):
    import io

    return np.asarray(Image.open(io.BytesIO(study.image(name))))


def test_pictures_are_stored_under_names_that_tell_nothing_and_without_their_origins(tmp_path, base):
    study = study_of(tmp_path, base=base)
    assert len(study) == 9 and study.images_per_prompt == study.best_of == 4
    numbers = {}
    for task in study.tasks:
        for j, name in enumerate(task.pictures):
            original = picture(1000 * (task.system + 1) + 10 * task.prompt + j)
            np.testing.assert_array_equal(pixels(study, name), np.asarray(original))
            assert b"reimagen" not in study.image(name) and b"iTXt" not in study.image(name)
            numbers.setdefault(task.system, []).append(int(name.removesuffix(".png")))
    assert sorted(n for some in numbers.values() for n in some) == list(range(1, 37))
    means = [np.mean(some) for some in numbers.values()]
    assert all(10 < mean < 27 for mean in means), "the numbers are shuffled among the systems"


def test_references_are_the_records_in_full_with_their_captions(tmp_path, base):
    study = study_of(tmp_path, base=base)
    for p, prompt in enumerate(study.prompts):
        assert [shown.caption for shown in prompt.references] == [f"{ENTITIES[p]} number {i}" for i in range(2)]
        np.testing.assert_array_equal(pixels(study, prompt.references[1].file), np.asarray(picture(10 * p + 1)))


def test_references_of_a_base_that_is_elsewhere_or_another(tmp_path, base):
    draw(tmp_path / "with", 1, base=base)
    systems = read_systems([f"with={tmp_path / 'with'}"])
    moved = base.path.with_name("moved")
    base.path.rename(moved)
    try:
        with pytest.raises(UserError, match="cat-0, 'cat number 0', is not found: give --knowledge-base DIR"):
            contents.references(systems, PROMPTS, "", (), 4)
        found = contents.references(systems, PROMPTS, "", (moved,), 1)
        assert [len(found[text]) for text in PROMPTS] == [1, 1, 1]
        other = base_of(tmp_path / "other", entities=("ant", "bee", "cat")).path
        with pytest.raises(UserError, match="is not found"):
            contents.references(systems, PROMPTS, "", (other,), 4)
    finally:
        moved.rename(base.path)


def test_references_are_those_of_one_system_for_all(tmp_path, base):
    draw(tmp_path / "without", 1)
    draw(tmp_path / "with", 2, base=base)
    systems = read_systems([f"{name}={tmp_path / name}" for name in ("without", "with")])
    assert all(len(shown) == 2 for shown in contents.references(systems, PROMPTS, "", (), 4).values())
    assert not any(contents.references(systems, PROMPTS, "without", (), 4).values())
    with pytest.raises(UserError, match="--references-of x: the systems are without, with"):
        contents.references(systems, PROMPTS, "x", (), 4)


def test_a_picture_that_was_changed_is_refused(tmp_path):
    folder = draw(tmp_path / "a", 1)
    path = next(folder.glob("000-*-0.png"))
    with Image.open(path) as image:
        told = image.info
        image = image.copy()
    image.putpixel((0, 0), (1, 2, 3))
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    chunk.add_itxt("reimagen_jax", told["reimagen_jax"])
    image.save(path, pnginfo=chunk)
    with pytest.raises(UserError, match=f"{path.name} is not as it was drawn"):
        read_systems([f"a={folder}"])


def test_systems_of_other_prompts_are_refused_and_it_is_said_which_lacks_what(tmp_path):
    draw(tmp_path / "a", 1)
    draw(tmp_path / "b", 2, PROMPTS[:2])
    draw(tmp_path / "c", 3, ["an ant"])
    given = [f"{name}={tmp_path / name}" for name in "abc"]
    systems = read_systems(given[:2])
    with pytest.raises(UserError, match="b lacks 1 of 3 prompts, such as 'a jay on a twig'; give --only-common"):
        common(systems, only=False)
    assert common(systems, only=True) == list(PROMPTS[:2])
    with pytest.raises(UserError, match="no prompt in common: a lacks 1 of 4 prompts, such as 'an ant'"):
        common(read_systems([given[0], given[2]]), only=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a"], "LABEL=FOLDER"),
        (["=a"], "LABEL=FOLDER"),
        (["x=nowhere"], "nowhere is not a folder"),
        (["x=a", "x=a"], "two systems are called x"),
        (["x=a:own"], "a has no part 'own'"),
        (["x=empty"], "holds no picture that tells where it comes from"),
    ],
)
def test_what_is_no_system_is_said(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "a", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        read_systems(given)


@pytest.mark.parametrize(
    ("number", "best_of", "expected"), [(4, 4, (4, 4)), (4, 1, (4, 1)), (5, 2, (4, 2)), (2, 4, (2, 2)), (8, 4, (8, 4))]
)
def test_how_many_pictures_are_rated(number, best_of, expected):
    systems = [SimpleNamespace(prompts={"a": SimpleNamespace(pictures=[None] * n)}) for n in (number, number + 1)]
    assert contents.group_size(systems, ["a"], best_of) == expected


def test_other_contents_are_refused_and_the_same_are_not(tmp_path):
    study = study_of(tmp_path, ("a", "b"))
    draw(tmp_path / "c", 3)

    def told(names, seed=0):
        systems = read_systems([f"{name}={tmp_path / name}" for name in names])
        return contents.Contents(systems, PROMPTS, {}, {}, 4, 4, seed).checksums

    study.require_same(told("ab"))
    with pytest.raises(UserError, match="systems: a, b then, a, c now; other pictures"):
        study.require_same(told("ac"))
    with pytest.raises(UserError, match="seed: 0 then, 1 now"):
        study.require_same(told("ab", 1))


def test_a_damaged_study_is_refused(tmp_path):
    study = study_of(tmp_path)
    with (study.path / study.tasks[0].pictures[0]).open("r+b") as file:
        file.seek(60)
        file.write(b"\0\0\0")
    with pytest.raises(UserError, match="checksum"):
        Study.open(study.path)


def test_only_the_studys_pictures_are_given_out(tmp_path):
    study = study_of(tmp_path)
    for name in ("manifest.json", "ratings.sqlite", "../a.png", "000000.png", ""):
        with pytest.raises(KeyError):
            study.image(name)


def test_pictures_for_people_are_two_systems(tmp_path):
    """As `evaluate people` writes them."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "references").mkdir()
    picture(99).save(tmp_path / "references" / "00001_1.png")
    sheets, rows = [], ["picture,prompt,entity,references,entity_right,text_right,realistic"]
    for n, (source, prompt, image) in enumerate((s, p, i) for s in ("own", "none") for p in range(2) for i in range(2)):
        name = f"pictures/{n + 1:06d}.png"
        picture(n).save(tmp_path / name)
        sheets.append(
            {"picture": name, "source": source, "prompt": prompt, "image": image, "category": "x", "neighbours": []}
        )
        rows.append(f"{name},a {prompt},e{prompt},references/00001_1.png,,,")
    prompts = [
        {"text": f"a {p}", "entity": f"e{p}", "category": "pets", "keys": ["k"] * (p + 1), "is_caption": False}
        for p in range(2)
    ]
    told = {"images_per_prompt": 2, "sources": ["own", "none"], "prompts": prompts, "pictures": sheets}
    (tmp_path / "drawn.json").write_text(json.dumps(told))
    (tmp_path / "ratings.csv").write_text("\n".join(rows) + "\n")
    mark(tmp_path, "pictures to judge")
    with_, without = read_systems([f"ours={tmp_path}"])
    assert (with_.label, without.label) == ("ours own", "ours none")
    assert [path.name for path in without.prompts["a 1"].pictures] == ["000007.png", "000008.png"]
    found = contents.about([with_, without], ["a 0", "a 1"], {})
    assert found == {
        "a 0": {"category": "pets", "frequency": "infrequent"},
        "a 1": {"category": "pets", "frequency": "frequent"},
    }
    shown = contents.references([with_, without], ["a 0", "a 1"], "", (), 4)
    assert shown["a 1"][0][1] == "e1" and shown["a 1"][0][0].shape == (8, 8, 3)
    (only,) = read_systems([f"x={tmp_path}:none"])
    assert only.label == "x"


def test_the_points_of_a_grid_are_systems(tmp_path):
    (tmp_path / "images").mkdir()
    points = []
    for number in (1, 2):
        keys = [[f"{number}{p}{s}" for s in range(2)] for p in range(3)]
        points.append({"number": number, "images_prompt_seed": keys, "values": {}})
        for n, key in enumerate(key for some in keys for key in some):
            picture(10 * number + n).save(tmp_path / "images" / f"{key}.png")
    told = {"prompts": [{"prompt": text, "record": ""} for text in PROMPTS], "points": points}
    (tmp_path / "sweep.json").write_text(json.dumps(told))
    mark(tmp_path, "sweep over a grid")
    systems = read_systems([f"low={tmp_path}:1", f"high={tmp_path}:2"])
    assert [system.label for system in systems] == ["low", "high"]
    assert [path.name for path in systems[1].prompts[PROMPTS[2]].pictures] == ["220.png", "221.png"]
    told["points"][0]["images_prompt_seed"][0][0] = "../../x"
    (tmp_path / "sweep.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="leads out of the folder"):
        read_systems([f"a={tmp_path}"])


def test_what_is_known_of_prompts_comes_from_records_or_lines(tmp_path):
    from reimagen_jax.data.records import write_records

    counts = {"cat": 5, "dog": 1, "jay": 1}
    records = [example(i, f"{name} {i}", entity=name, category="pets") for name, n in counts.items() for i in range(n)]
    records = [example(n, each.text, f"r{n}", **each.attributes) for n, each in enumerate(records)]
    write_records(records, tmp_path / "records", source="test")
    found = contents.read_about(tmp_path / "records")
    assert found["cat 3"] == {"category": "pets", "frequency": "frequent"}
    assert found["dog 0"]["frequency"] == "infrequent"
    lines = [{"text": text, "category": "x", "split": split} for text, split in zip(PROMPTS, SPLITS, strict=True)]
    (tmp_path / "about.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = contents.read_about(tmp_path / "about.jsonl")
    assert [told[text]["frequency"] for text in PROMPTS] == ["frequent", "infrequent", "infrequent"]
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1 has no text"):
        contents.read_about(tmp_path / "bad.jsonl")


def test_the_top_half_by_frequency_is_frequent():
    assert halves({"a": 9, "b": 5, "c": 1, "d": 1}) == {
        "a": "frequent",
        "b": "frequent",
        "c": "infrequent",
        "d": "infrequent",
    }
    assert halves({"a": 2, "b": 2}) == halves({}) == {}
