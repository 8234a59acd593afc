"""`reimagen evaluate coco` and `wiki`, on small sets in their layouts: drawn, compared, gone on with, refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.cli import main
from reimagen_jax.commands import evaluate
from reimagen_jax.data import images
from reimagen_jax.data.records import Records
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import protocol
from reimagen_jax.evaluation.features import open_features
from reimagen_jax.evaluation.sets import compare, read_set
from reimagen_jax.inference import jobs
from reimagen_jax.reports.keeping import keep
from tests.captioned import write_coco, write_wiki

HOW = "--steps 2 --batch-size 4 --devices 1"


def run(command, *words):
    evaluate.main([command, *shlex.split(" ".join(map(str, words)))])


def prepared(source, out, options=""):
    """Records and their index, by the program's own commands."""
    assert main(shlex.split(f"prepare --source {source} --out {out}/records --resolution 16 {options}")) == 0
    assert main(shlex.split(f"index {out}/records --out {out}/index")) == 0
    return out / "index"


@pytest.fixture(scope="module")
def coco(world, tmp_path_factory):
    """COCO's layout: 16 pictures to draw; a base of these themselves and of 20 for training."""
    folder = tmp_path_factory.mktemp("coco")
    records = list(Records.open(world / "records").fetch(range(36)))
    write_coco(folder, records[:16])
    train = write_coco(folder, records[16:], "train2014", first=200)
    own = prepared(folder / "annotations" / "captions_val2014.json", folder / "own")
    return folder, prepared(train, folder / "train"), own


@pytest.fixture(scope="module")
def whole(coco, model, rater, tmp_path_factory):
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run("coco", words(coco, model, rater, out))
    return out


def words(coco, model, rater, out, database=None):
    folder, train, own = coco
    database = database or f"none in-domain={train} own={own}"
    return (
        f"--captions {folder}/annotations/captions_val2014.json --count 9 --model {model} --features {rater} {HOW} "
        f"--out {out} --database {database}"
    )


def results(out):
    return json.loads((out / "results.json").read_text())


def listed(out):
    return [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]


def drawn(out):
    """sample.json's images."""
    return json.loads((out / "sample.json").read_text())["images"]


def figures(row):
    return {figure["name"]: figure for figure in row["figures"]}


def pixels(folder):
    return [np.asarray(Image.open(folder / each["file"])) for each in drawn(folder)]


def test_one_caption_of_each_of_some_pictures_is_drawn_with_every_database_from_the_same_noise(coco, whole):
    folder, _, _ = coco
    told = json.loads((folder / "annotations" / "captions_val2014.json").read_text())
    texts = {name["file_name"]: set() for name in told["images"]}
    for each in told["annotations"]:
        texts[f"COCO_val2014_{each['image_id']:012d}.jpg"].add(each["caption"])
    chosen = listed(whole)
    assert len({each["key"] for each in chosen}) == 9
    assert all(each["text"] in texts[each["key"]] for each in chosen)
    assert len({each["text"].endswith("again") for each in chosen}) == 2, "first captions and second ones"
    for name in ("none", "in-domain", "own"):
        assert [(each["record"], each["prompt"]) for each in drawn(whole / name)] == [tuple(e.values()) for e in chosen]
        assert [each["index"] for each in drawn(whole / name)] == list(range(9))
        assert all(bool(each["neighbours"]) == (name != "none") for each in drawn(whole / name))
    seen = {name: pixels(whole / name) for name in ("none", "in-domain", "own")}
    assert all(not np.array_equal(*pair) for pair in zip(seen["none"], seen["in-domain"], strict=True))


def test_pictures_are_those_that_sample_draws(coco, whole, model, tmp_path):
    lines = "".join(json.dumps({"text": each["text"]}) + "\n" for each in listed(whole))
    (tmp_path / "prompts.jsonl").write_text(lines)
    how = f"--prompts {tmp_path}/prompts.jsonl --knowledge-base {coco[1]} --near-duplicates 0.08 --num-images 1 {HOW}"
    assert main(["sample", *shlex.split(f"--model {model} {how} --out {tmp_path}/drawn")]) == 0
    places = (whole / "in-domain", tmp_path / "drawn")
    same = [one["neighbours"] == other["neighbours"] for one, other in zip(*map(drawn, places), strict=True)]
    assert len(same) == 9 and sum(same) >= 6, "its own picture is known to one of them"
    pairs = zip(*map(pixels, places), strict=True)
    assert all(np.array_equal(*pair) for pair, known in zip(pairs, same, strict=True) if known)


def test_no_prompt_is_shown_its_own_picture_whatever_the_database_is_of(coco, whole, model, rater, tmp_path):
    """By its id, where the base has ids; by what it looks like, where others have prepared the base."""
    for each in drawn(whole / "own"):
        assert len(each["neighbours"]) == 2
        assert each["record"] not in [hit["key"] for hit in each["neighbours"]]
    own, lines = coco[2], []
    (tmp_path / "copies").mkdir()
    for number, record in enumerate(Records.open(own.parent / "records")):
        darker = images.load(record.image).point(lambda value: value * 0.96)
        darker.save(tmp_path / "copies" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": record.text, "of": record.key}) + "\n")
    (tmp_path / "copies" / "metadata.jsonl").write_text("".join(lines))
    copies = prepared(tmp_path / "copies", tmp_path)
    run("coco", words(coco, model, rater, tmp_path / "out", f"copies={copies}"))
    of = {record.key: record.attributes["of"] for record in Records.open(tmp_path / "records")}
    for each in drawn(tmp_path / "out" / "copies"):
        assert len(each["neighbours"]) == 2
        assert each["record"] not in [of[hit["key"]] for hit in each["neighbours"]]
    run("coco", words(coco, model, rater, tmp_path / "told", f"copies={copies}"), "--near-duplicates 0")
    assert any(
        each["record"] in [of[hit["key"]] for hit in each["neighbours"]] for each in drawn(tmp_path / "told" / "copies")
    ), "unless that is asked for"


def test_figures_are_of_the_reference_that_they_name(coco, whole, model, rater, tmp_path, capsys):
    folder, _, _ = coco
    found = results(whole)
    assert found["complete"] and [row["database"] for row in found["rows"]] == ["none", "in-domain", "own"]
    features = protocol.fitted(open_features(rater), 16, "bicubic")
    y = read_set(folder / "val2014", features)
    for row in found["rows"]:
        expected = {figure.name: figure for figure in compare(read_set(whole / row["database"], features), y, features)}
        assert figures(row).keys() == expected.keys() >= {"FID", "KID", "precision", "recall"}
        for name, figure in figures(row).items():
            assert figure["value"] == pytest.approx(expected[name].value, rel=1e-6, abs=1e-9)
            assert figure["told"].startswith("against all 16 pictures of captions_val2014.json")
            assert figure["by"].endswith("of central squares at 16 (bicubic)")
    none = words(coco, model, rater, tmp_path / "same", "none")
    run("coco", none, "--reference same")
    out = capsys.readouterr().out
    same = figures(results(tmp_path / "same")["rows"][0])
    assert same["FID"]["told"] == "against the 9 pictures of the captions" and same["FID"]["told"] in out
    assert same["FID"]["value"] != figures(found["rows"][0])["FID"]["value"]
    assert "| database | pictures | FID | KID | precision | recall |" in out
    run("coco", none.replace("/same", "/stored"), f"--reference {whole}/reference.npz")
    (only,) = results(tmp_path / "stored")["rows"][0]["figures"][:1]
    assert only["value"] == pytest.approx(figures(found["rows"][0])["FID"]["value"], rel=1e-6)
    assert only["told"] == f"against 16 pictures in {whole}/reference.npz"
    with pytest.raises(UserError, match="has statistics of other features"):
        run("coco", none.replace("/same", "/other"), f"--reference {whole}/reference.npz --resize area")
    kept = keep([str(whole)], "COCO", "In a sentence.")
    assert [row.labels[0] for row in kept.rows] == ["none", "in-domain", "own"] and kept.labels[0] == "database"
    assert kept.rows[1].values["FID"] == pytest.approx(figures(found["rows"][1])["FID"]["value"], rel=1e-5)
    assert isinstance(kept.rows[1].values["precision"], tuple)


def contents(out):
    """Of pictures and the list; the names of all files."""
    found = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    names = {name for name in found if name.endswith((".png", ".jsonl"))}
    return {name: found[name].read_bytes() for name in names}, set(found)


def test_what_was_stopped_goes_on_and_ends_in_what_an_undisturbed_run_leaves(
    coco, whole, model, rater, tmp_path, monkeypatch
):
    """Killed in the second of three databases, and as it measures."""
    saved, save, read = [], jobs.save_image, []

    def disturbed(path, image, origin):
        save(path, image, origin)
        saved.append(path)
        if len(saved) == 9 + 6:
            (path.parent / f".{path.name}.partial").write_bytes(b"half")
            raise SystemExit("killed")

    def broken(set_, *args, **options):
        read.append(options.get("title"))
        if len(read) == 3:
            raise SystemExit("killed")
        return read_set(set_, *args, **options)

    monkeypatch.setattr(jobs, "save_image", disturbed)
    monkeypatch.setattr("reimagen_jax.evaluation.sets.read_set", broken)
    for _ in range(2):
        with pytest.raises(SystemExit, match="killed"):
            run("coco", words(coco, model, rater, tmp_path / "out"))
        assert not results(tmp_path / "out")["complete"]
    run("coco", words(coco, model, rater, tmp_path / "out"))
    assert len(saved) == len(set(saved)) == 27, "nothing is drawn twice"
    assert read == ["reference", "none", "reference", "reference", "in-domain", "own"]
    assert results(tmp_path / "out")["rows"] == results(whole)["rows"]
    images_then, names_then = contents(whole)
    assert contents(tmp_path / "out") == (images_then, names_then)
    run("coco", words(coco, model, rater, tmp_path / "out"))
    assert len(saved) == 27 and len(read) == 6, "what is done is done"
    run("coco", words(coco, model, rater, tmp_path / "out"), "--reference same")
    assert len(saved) == 27 and len(read) == 10, "another reference draws nothing"


def test_lists_that_others_have_published_are_drawn_as_they_are(coco, model, rater, tmp_path):
    (tmp_path / "list.csv").write_text(
        'image_id,source,prompt,evaluation_seed\n000000000103,coco-30k,"A cat, asleep.\n",41\n'
        "000000000111,coco-30k,a dog,42\n000000000103,coco-30k,a cat,43\n"
    )
    (tmp_path / "uid.tsv").write_text("uid\tcaption\n103_mscoco_1\tA cat, asleep.\n111_mscoco_0\ta dog\n103\ta cat\n")
    told = [{"image_id": 103, "caption": "A cat, asleep."}, {"image_id": 111, "caption": "a dog", "id": 7}]
    told += [{"image_id": 103, "caption": "a cat"}]
    (tmp_path / "coco.json").write_text(json.dumps({"annotations": told}))
    names = [{"file_name": f"COCO_val2014_{each['image_id']:012d}.jpg", "text": each["caption"]} for each in told]
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(each) + "\n" for each in names))
    folder = coco[0]
    source = protocol.CaptionedSet.of(pictures_of(folder), folder)
    lists = [source.listed(tmp_path / name) for name in ("list.csv", "uid.tsv", "coco.json", "names.jsonl")]
    assert [each.text for each in lists[0]] == ["A cat, asleep.", "a dog", "a cat"]
    assert all(each == lists[0] for each in lists)
    none = words(coco, model, rater, tmp_path / "out", "none").replace("--count 9", "--count 3")
    run("coco", none, f"--caption-list {tmp_path}/list.csv --reference same --fid-only")
    row = results(tmp_path / "out")["rows"][0]
    assert [each["prompt"] for each in drawn(tmp_path / "out" / "none")] == ["A cat, asleep.", "a dog", "a cat"]
    assert list(figures(row)) == ["FID"]
    assert figures(row)["FID"]["told"] == "against the 2 pictures of the captions"
    for content, said in (
        ("image_id,prompt\n7,a cat\n", "list of another set"),
        ("image_id,words\n103,a cat\n", "has no picture .* with a caption .*: it has image_id, words"),
        ("image_id,prompt\n", "holds no captions"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(UserError, match=said):
            source.listed(tmp_path / "bad.csv")


def pictures_of(folder):
    from reimagen_jax.data.sources import CocoSource

    return CocoSource(folder / "annotations" / "captions_val2014.json")


def test_a_shorter_list_is_the_beginning_of_a_longer_one_and_seeds_draw_others(coco):
    found = protocol.CaptionedSet.of(pictures_of(coco[0]), coco[0])
    assert found.drawn(5, 3) == found.drawn(16, 3)[:5] and found.drawn(None, 3) == found.drawn(16, 3)
    assert found.drawn(16, 3) != found.drawn(16, 4) and {e.key for e in found.drawn(16, 4)} == set(found.entries)


def test_sets_are_compared_as_central_squares_at_one_side(rater):
    """A picture with bars beside its square, and the square alone: both are the same to the features."""
    square = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    wide = np.concatenate([np.zeros((40, 12, 3), np.uint8), square, np.full((40, 12, 3), 255, np.uint8)], axis=1)
    own = open_features(rater)
    found = {method: protocol.fitted(own, 20, method) for method in protocol.METHODS}
    seen = [each.prepare(Image.fromarray(wide)) for each in found.values()]
    for features, picture in zip(found.values(), seen, strict=True):
        assert np.array_equal(picture, features.prepare(Image.fromarray(square))) and picture.shape == (16, 16, 3)
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])
    small = protocol.fitted(own, 16, "bicubic").prepare(Image.fromarray(square[:16, :16]))
    assert np.array_equal(small, square[:16, :16]), "what has the side stays as it is"
    assert len({str(each) for each in found.values()}) == 3 and found["area"].label.endswith("at 20 (area)")


def test_wikiimages_are_a_part_of_a_folder_and_no_prompt_is_shown_its_own_picture(world, model, rater, tmp_path):
    records = list(Records.open(world / "records").fetch(range(30)))
    folder = write_wiki(tmp_path / "wiki", {"val": records[:8], "train": records[8:]})
    everything = prepared(folder, tmp_path / "all")
    train = prepared(folder, tmp_path / "train", "--where split=train")
    run(
        "wiki",
        f"--pictures {folder} --set-where split=val --model {model} --features {rater} {HOW} --out {tmp_path}/out",
        f"--database none in-domain={train} all={everything} --query-by entity",
    )
    found = results(tmp_path / "out")
    assert [row["pictures"] for row in found["rows"]] == [8, 8, 8] and found["set"]["pictures"] == 8
    assert figures(found["rows"][0])["FID"]["told"] == "against all 8 pictures of wiki"
    assert {each["key"] for each in listed(tmp_path / "out")} == {f"images/3000000{n}.jpg" for n in range(8)}
    for each in drawn(tmp_path / "out" / "all"):
        assert each["neighbours"] and each["record"] not in [hit["key"] for hit in each["neighbours"]]
    assert len(keep([str(tmp_path / "out")], "Wiki", "In a sentence.").rows) == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--database in-domain", "give none, or NAME=DIR"),
        ("--database ../x=DIR", "give none, or NAME=DIR"),
        ("--database rows=DIR", "give none, or NAME=DIR"),
        ("--database none none", "none is given twice"),
        ("--database none a=DIR --k 0", "--k 0 shows no neighbours"),
        ("--count 17", "17 captions of .*: it has 16 pictures"),
        ("--reference every", "neither all nor same"),
        ("--caption-list gone.csv", "cannot be read as a list of captions"),
        ("--pictures gone", "gone is not a folder"),
        ("--captions gone.json", "captions_val2014.json, were expected"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_drawn(coco, model, rater, tmp_path, monkeypatch, more, said):
    monkeypatch.setattr("reimagen_jax.commands.evaluate_protocols.open_chain", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UserError, match=said):
        run("coco", words(coco, model, rater, tmp_path / "out", "none"), more)
    assert not (tmp_path / "out").exists()


def test_another_list_or_model_is_not_mixed_in_and_a_set_with_gaps_is_none(coco, whole, model, rater, world, tmp_path):
    with pytest.raises(UserError, match=r"captions\.jsonl is of other captions than these 9: .* choose another --out"):
        run("coco", words(coco, model, rater, whole), "--list-seed 1")
    with pytest.raises(UserError, match="has the images of another job"):
        run("coco", words(coco, model, rater, whole), "--seed 1")
    folder = tmp_path / "coco"
    path = write_coco(folder, list(Records.open(world / "records").fetch(range(4))))
    (folder / "val2014" / "COCO_val2014_000000000102.jpg").unlink()
    given = words((folder, *coco[1:]), model, rater, tmp_path / "out", "none").replace("--count 9", "--count 2")
    with pytest.raises(UserError, match=r"COCO_val2014_000000000102\.jpg: missing file"):
        run("coco", given)
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "annotations": told["annotations"][:2]}))
    with pytest.raises(UserError, match=r"empty caption.*compared as a whole"):
        run("coco", given.replace(f"{tmp_path}/out", f"{tmp_path}/other"))
    path.write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match="has no list of annotations"):
        run("coco", given.replace(f"{tmp_path}/out", f"{tmp_path}/other"))


def test_a_row_that_was_changed_by_hand_is_refused(coco, model, rater, tmp_path):
    none = words(coco, model, rater, tmp_path / "out", "none")
    run("coco", none)
    (row,) = (tmp_path / "out" / "rows").glob("*.json")
    row.write_text(row.read_text().replace('"value": ', '"value": 1'))
    with pytest.raises(UserError, match="is not as it was written: delete it"):
        run("coco", none)
