"""`reimagen evaluate fid`, `drawn`, `scores`, `statistics`: figures of sets, statistics of others, what is refused."""

import json
import os
import shlex
import shutil
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from reimagen_jax.commands import evaluate
from reimagen_jax.data import images
from reimagen_jax.data.records import Records
from reimagen_jax.encoders import clip, dual
from reimagen_jax.encoders.settings import DualConfig
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import distances
from reimagen_jax.evaluation.distances import Gaussian
from reimagen_jax.evaluation.features import open_features
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.evaluation.sets import read_set
from tests.encoders.published import write_clip
from tests.inception import SHRINK, write_inception


def run(command, *words):
    evaluate.main([command, *shlex.split(" ".join(map(str, words)))])


@pytest.fixture(scope="module")
def drawn(world, tmp_path_factory):
    """60 pictures of the world, and the same as an archive would have them, in grey."""
    pictures = np.stack([images.decode(record.image) for record in Records.open(world / "records").fetch(range(60))])
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture // 2 + 60).save(folder / f"{number:03d}.png")
    return folder


def vectors_of(folder, rater):
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return Rater.open(rater).features(np.stack(pictures))


def told(path):
    figures = json.loads(path.read_text())["figures"]
    assert all(figure["by"] for figure in figures), "each is of something"
    return {figure["name"]: figure for figure in figures}


def test_all_figures_are_told_of_what_and_by_what(world, drawn, rater, tmp_path, capsys):
    run("fid", drawn, world / "records", f"--features {rater} --out {tmp_path}/f.json")
    out = capsys.readouterr().out
    figures = told(tmp_path / "f.json")
    assert list(figures) == ["FID", "FID without bias", "KID", "precision", "recall", "density", "coverage"]
    assert all(f"\n{name} " in out for name in figures)
    assert "pictures: " in out and "60 pictures (folder)" in out and "pictures (records)" in out
    assert "the rater's features" in out and "at 16 x 16: central square" in out
    interval = figures["FID without bias"]
    assert interval["low"] < interval["value"] < interval["high"] and interval["value"] < figures["FID"]["value"]
    assert json.loads((tmp_path / "f.json").read_text())["pictures"] == {
        "path": str(drawn),
        "of": "folder",
        "count": 60,
    }


def test_infinity_is_told_where_it_is_asked_for_and_pictures_are_enough(world, drawn, rater, tmp_path, capsys):
    many = np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", arr_0=many)
    run("statistics", world / "records", f"--features {rater} --out {tmp_path}/s.npz")
    run("fid", tmp_path / "many.npz", f"{tmp_path}/s.npz --features {rater} --fid-infinity --out {tmp_path}/f.json")
    figures = told(tmp_path / "f.json")
    assert list(figures) == ["FID", "FID without bias", "FID-infinity"]
    found = figures["FID-infinity"]
    with np.load(tmp_path / "s.npz") as file:
        reference = Gaussian(file["mu"], file["sigma"])
    expected = distances.frechet_infinity(Rater.open(rater).features(many), reference)
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx(list(expected), rel=1e-4)
    assert found["told"] == "fit over 15 sizes, interval of the pictures alone"
    assert "\nFID-infinity  " in capsys.readouterr().out
    for pictures, said in (
        (drawn, "FID-infinity needs 66 pictures"),
        (tmp_path / "s.npz", "of statistics there is no"),
    ):
        run("fid", pictures, f"{tmp_path}/s.npz --features {rater} --fid-infinity")
        assert said in capsys.readouterr().out
    with pytest.raises(UserError, match="--fid-infinity is of vectors, and --fid-only keeps none"):
        run("fid", drawn, drawn, f"--features {rater} --fid-only --fid-infinity")


def test_a_set_is_not_apart_from_itself_and_few_pictures_are_said_to_be_few(drawn, rater, tmp_path, capsys):
    run("fid", drawn, drawn, f"--features {rater} --out {tmp_path}/f.json")
    figures = told(tmp_path / "f.json")
    assert figures["FID"]["value"] == pytest.approx(0, abs=1e-9)
    assert figures["precision"]["value"] == figures["recall"]["value"] == figures["coverage"]["value"] == 1
    (tmp_path / "few").mkdir()
    for number in range(4):
        (tmp_path / "few" / f"{number}.png").write_bytes((drawn / f"{number:03d}.png").read_bytes())
    run("fid", tmp_path / "few", drawn, f"--features {rater} --out {tmp_path}/g.json")
    assert list(told(tmp_path / "g.json")) == ["FID", "KID"]
    out = capsys.readouterr().out
    assert "4 pictures span fewer than the 16 dimensions" in out
    assert "4 pictures have no 5 neighbours, so there are no precision" in out


def test_statistics_stand_for_their_pictures(world, drawn, rater, tmp_path, capsys):
    run("statistics", world / "records", f"--features {rater} --out {tmp_path}/s.npz")
    for name, reference in (("by_pictures", world / "records"), ("by_statistics", tmp_path / "s.npz")):
        run("fid", drawn, reference, f"--features {rater} --out {tmp_path}/{name}.json")
    plain, by_statistics = (told(tmp_path / f"{name}.json") for name in ("by_pictures", "by_statistics"))
    assert by_statistics["FID"]["value"] == pytest.approx(plain["FID"]["value"], rel=1e-9)
    assert list(by_statistics) == ["FID", "FID without bias"]
    assert "that of the pictures alone" in by_statistics["FID without bias"]["told"]
    with np.load(tmp_path / "s.npz") as file:
        assert file["mu"].dtype == file["sigma"].dtype == np.float64 and file["sigma"].shape == (16, 16)
    run("fid", drawn, world / "records", f"--features {rater} --fid-only --out {tmp_path}/only.json")
    assert list(told(tmp_path / "only.json")) == ["FID"]
    assert "assumed" not in capsys.readouterr().out


def test_statistics_as_others_write_them_are_read(drawn, rater, tmp_path, capsys):
    """mu and sigma alone, as pytorch-fid has them; beside pictures and sigmas of its own, as the ADM suite has."""
    x_ND = vectors_of(drawn, rater).astype(np.float64)
    moved = Gaussian(x_ND.mean(axis=0) + 2, np.cov(x_ND, rowvar=False))
    np.savez(tmp_path / "theirs.npz", mu=moved.mean_D, sigma=moved.cov_DD)
    run("fid", drawn, tmp_path / "theirs.npz", f"--features {rater} --out {tmp_path}/f.json")
    assert told(tmp_path / "f.json")["FID"]["value"] == pytest.approx(4 * 16, rel=1e-9)
    assert "does not tell of which features its statistics are: these are assumed" in capsys.readouterr().out
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(drawn.glob("*.png"))])
    np.savez(tmp_path / "adm.npz", arr_0=pictures, mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(9))
    run("fid", drawn, tmp_path / "adm.npz", f"--features {rater} --out {tmp_path}/g.json")
    assert told(tmp_path / "g.json")["FID"]["value"] == pytest.approx(0, abs=1e-9), "of other features: its pictures"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, r"mu \[2048\], sigma \[2048, 2048\], and .* are 16 values"),
        ({"mu": np.zeros(16), "sigma": np.eye(15)}, r"sigma \[15, 15\]"),
        ({"mu": np.full(16, np.nan), "sigma": np.eye(16)}, "no finite numbers"),
        ({"mu": np.zeros(16), "sigma": np.arange(256.0).reshape(16, 16)}, "not symmetric"),
        ({"mu": np.full(16, None), "sigma": np.eye(16)}, "float64: floats are needed"),
        ({"mu": np.zeros(16), "sigma": np.eye(16), "count": "many"}, "cannot be read as statistics"),
        ({"mu": np.zeros(16), "sigma": np.eye(16), "count": -5}, "count is -5, and pictures are 2 at least"),
        ({"mu": np.zeros(16), "sigma": np.eye(16), "count": 10.7}, "count is 10.7"),
        ({"mu": np.zeros(16), "sigma": -1000 * np.eye(16)}, "variances below 0"),
        ({"mu": np.zeros(16), "sigma": np.diag(np.repeat([1e3, -1.0], 8))}, "variances below 0"),
        ({"mu": np.full(16, 1e300), "sigma": np.eye(16)}, r"has 1.0e\+300: no network's features"),
        ({"mu": np.zeros(16), "sigma": np.eye(16), "features": "Inception's"}, "of other features, Inception's"),
        ({"other": np.zeros(3)}, "neither pictures"),
    ],
)
def test_statistics_that_are_none_of_these_features_are_refused(drawn, rater, tmp_path, arrays, said):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=said):
        run("fid", drawn, tmp_path / "s.npz", f"--features {rater}")


def test_an_array_that_is_there_twice_is_none(drawn, rater, tmp_path):
    """numpy reads one of them, the header that is looked at is the other's."""
    np.savez(tmp_path / "s.npz", mu=np.zeros(16), sigma=np.eye(16))
    with zipfile.ZipFile(tmp_path / "s.npz", "a") as archive:
        archive.writestr("mu", b"hello")
    with pytest.raises(UserError, match="two of its arrays have one name"):
        run("fid", drawn, tmp_path / "s.npz", f"--features {rater}")


def test_rounded_covariances_of_fewer_pictures_than_dimensions_are_ones(drawn, rater, tmp_path):
    """As float32 tells them: some variances are a little below 0."""
    x_ND = vectors_of(drawn, rater)[:8].astype(np.float64)
    cov_DD = np.cov(x_ND, rowvar=False).astype(np.float32)
    assert np.linalg.eigvalsh(cov_DD.astype(np.float64))[0] < 0
    np.savez(tmp_path / "s.npz", mu=x_ND.mean(axis=0).astype(np.float32), sigma=cov_DD)
    run("fid", drawn, tmp_path / "s.npz", f"--features {rater} --out {tmp_path}/f.json")
    assert told(tmp_path / "f.json")["FID"]["value"] > 0


def test_a_pipe_among_pictures_is_refused_and_not_waited_for(drawn, rater, tmp_path):
    shutil.copytree(drawn, tmp_path / "piped")
    os.mkfifo(tmp_path / "piped" / "a.png")
    (tmp_path / "piped" / "sample.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"a\.png cannot be read: it is no regular file"):
        run("fid", tmp_path / "piped", drawn, f"--features {rater}")


def test_an_encoder_gives_features_too(drawn, tiny_encoder, tmp_path, capsys):
    run("fid", drawn, drawn, f"--features {tiny_encoder}")
    out = capsys.readouterr().out
    assert "vectors of the encoder (dual" in out and "at 16 x 16" in out


def test_features_are_the_raters_layers_of_unit_size_picture_by_picture(drawn, rater):
    found = vectors_of(drawn, rater)
    assert found.shape == (60, 16) and found.dtype == np.float32
    np.testing.assert_allclose((found.reshape(60, 2, 8) ** 2).mean(axis=-1), 1, rtol=1e-2)
    one = Rater.open(rater).features(np.asarray(Image.open(drawn / "007.png"))[None])
    np.testing.assert_allclose(one[0], found[7], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_what_cannot_be_done_is_said_before_anything_is_computed(drawn, rater, tmp_path, monkeypatch):
    monkeypatch.setattr(distances.Moments, "add", lambda *_: pytest.fail("it was computed"))
    (tmp_path / "there.npz").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for command, words, said in (
        ("fid", f"{drawn} {drawn} --out {tmp_path}/there.npz", "already exists: pass --overwrite"),
        ("fid", f"{drawn} {drawn} --out {tmp_path}/no/f.json", "make the folder first"),
        ("fid", f"{drawn} {drawn} --features {tmp_path}", "holds no encoder"),
        ("fid", f"{drawn} {drawn} --out {tmp_path}/there.npz/f.json", "is a file, no folder"),
        ("fid", f"{drawn} {drawn} --out {tmp_path}/pipe --overwrite", "no file that could be replaced"),
        ("fid", f"{drawn} {tmp_path}/gone", "gone not found"),
        ("statistics", f"{drawn} --out {tmp_path}/s.txt", "NAME.npz"),
        ("statistics", f"{drawn} --out {tmp_path}/there.npz", "already exists: pass --overwrite"),
    ):
        with pytest.raises(UserError, match=said):
            run(command, words)
    assert (tmp_path / "there.npz").read_bytes() == b"", "nothing was written"


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "pt_inception.pth")


@pytest.fixture(scope="module")
def few(drawn, tmp_path_factory):
    """Twelve of the pictures."""
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(drawn.glob("*.png"))[:12]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """With random weights."""
    folder, config = tmp_path_factory.mktemp("encoder"), DualConfig(16, 8, 8)
    found = dual.DualEncoder(config, dual.init(config, jax.random.key(0)), {"measured": {}})
    found.save(folder)
    return folder, found


class TestInception:
    """Of an eighth of the width, with random weights: features of 2048 / 8 values, said to be so."""

    def test_figures_name_the_resizing_and_statistics_go_with_theirs_alone(self, few, inception, tmp_path, capsys):
        by = f"--features {inception} --resizing torch-fidelity"
        run("statistics", few, f"{by} --out {tmp_path}/s.npz")
        run("fid", few, f"{tmp_path}/s.npz {by} --out {tmp_path}/f.json")
        figures = told(tmp_path / "f.json")
        assert list(figures) == ["FID", "sFID", "Inception Score"]
        assert figures["FID"]["value"] == pytest.approx(0, abs=1e-6)
        assert figures["sFID"]["value"] == pytest.approx(0, abs=1e-6)
        with np.load(tmp_path / "s.npz") as file:
            assert file["mu_s"].shape == (2023,) and file["sigma_s"].shape == (2023, 2023)
            assert file["mu_s"].dtype == file["sigma_s"].dtype == np.float64
        assert figures["FID"]["by"] == f"Inception 2048 of 1/{SHRINK} of the width, torch-fidelity's resizing"
        assert 1 <= figures["Inception Score"]["value"] < 60
        out = capsys.readouterr().out
        assert "whole pictures at 299 x 299 as torch-fidelity resizes them: bilinear from the corner" in out
        assert f"12 pictures span fewer than the {2048 // SHRINK} dimensions" in out
        for other in ("pytorch-fid", "clean"):
            with pytest.raises(UserError, match=r"has statistics of other features, .* as torch-fidelity resizes them"):
                run("fid", few, f"{tmp_path}/s.npz --features {inception} --resizing {other}")

    def test_statistics_of_others_are_those_of_the_resizing_that_is_asked_for(self, few, inception, tmp_path, capsys):
        """As pytorch-fid writes them they do not tell it; the ADM suite's are of TensorFlow 1's, beside pictures."""
        side = 2048 // SHRINK
        np.savez(tmp_path / "theirs.npz", mu=np.zeros(side), sigma=np.eye(side))
        run("fid", few, f"{tmp_path}/theirs.npz --features {inception} --out {tmp_path}/f.json")
        assert "pytorch-fid's resizing" in told(tmp_path / "f.json")["FID"]["by"]
        assert "does not tell of which features" in capsys.readouterr().out
        pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(few.glob("*.png"))])
        more = {"mu_s": np.zeros(2023), "sigma_s": np.eye(2023), "arr_0": pictures}
        np.savez(tmp_path / "adm.npz", mu=np.zeros(side), sigma=np.eye(side), **more)
        with pytest.raises(UserError, match=r"resized as TensorFlow 1 does: .* --resizing torch-fidelity"):
            run("fid", few, f"{tmp_path}/adm.npz --features {inception}")
        by = f"--features {inception} --resizing torch-fidelity --out {tmp_path}"
        run("fid", few, f"{tmp_path}/adm.npz {by}/g.json")
        figures = told(tmp_path / "g.json")
        assert figures["FID"]["value"] > 1 and figures["precision"]["value"] == figures["coverage"]["value"] == 1
        assert figures["KID"]["value"] <= 1e-9, "its pictures are the same, its statistics are not of them"
        own = read_set(few, open_features(inception, "torch-fidelity")).spatial
        roots = np.linalg.svd(own.factor_DR, compute_uv=False)
        expected = own.mean_D @ own.mean_D + ((roots - 1) ** 2).sum() + 2023 - 12
        assert figures["sFID"]["value"] == pytest.approx(expected, rel=1e-6), "of what it is, against a unit ball"
        np.savez(tmp_path / "broken.npz", mu=np.zeros(side), sigma=np.eye(side), **more | {"sigma_s": np.eye(2022)})
        with pytest.raises(UserError, match=r"mu_s \[2023\], sigma_s \[2022, 2022\], and those of sFID are 2023"):
            run("fid", few, f"{tmp_path}/broken.npz {by}/h.json")

    def test_places_before_the_last_have_other_features_and_no_score(self, few, inception, tmp_path):
        run("fid", few, few, f"--features {inception} --point 64 --fid-only --out {tmp_path}/f.json")
        figures = told(tmp_path / "f.json")
        assert list(figures) == ["FID"] and figures["FID"]["by"].startswith("Inception 64 ")

    def test_what_is_of_inception_alone_is_refused_elsewhere(self, drawn, rater, tmp_path):
        for words, said in (
            (f"--features {rater} --resizing clean", "--resizing clean is of Inception"),
            (f"--features {rater} --point 64", "--point 64 is of Inception"),
            (f"--features {tmp_path}/none.pth", "none.pth not found"),
            (f"--features {drawn}/000.png", "neither a zip archive"),
        ):
            with pytest.raises(UserError, match=said):
                run("fid", drawn, drawn, words)

    def test_pictures_of_any_sides_are_squeezed_and_what_is_none_is_named(self, few, inception, tmp_path):
        (tmp_path / "mixed").mkdir()
        for i, sides in enumerate(((20, 31), (40, 12), (16, 16))):
            picture = np.random.default_rng(i).integers(0, 256, (*sides, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "mixed" / f"{i}.png")
        run("fid", tmp_path / "mixed", few, f"--features {inception} --point 64 --out {tmp_path}/f.json")
        assert json.loads((tmp_path / "f.json").read_text())["pictures"]["count"] == 3
        (tmp_path / "mixed" / "3.png").write_bytes(b"no picture")
        with pytest.raises(UserError, match=r"3\.png: not an image"):
            run("fid", tmp_path / "mixed", few, f"--features {inception} --point 64")


def test_a_batch_is_split_over_devices_and_filled_up(inception, monkeypatch):
    """Vectors do not depend on how many devices there are, on how many pictures come at once, nor on what the last
    batch is filled up with."""
    assert jax.local_device_count() == 8
    features = open_features(inception, point=64)
    pictures = [np.asarray(np.random.default_rng(i).integers(0, 256, (30, 20, 3)), np.uint8) for i in range(5)]
    prepared = np.stack([features.prepare(Image.fromarray(each)) for each in pictures])
    whole = np.concatenate([read.vector_BD for read in features.read([prepared])])
    parts = [read.vector_BD for read in features.read([prepared[:2], prepared[2:]])]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    assert whole.shape == (5, features.width) and whole.dtype == np.float32
    monkeypatch.setattr("reimagen_jax.evaluation.features._mesh", lambda: None)
    (alone,) = open_features(inception, point=64).read([prepared])
    np.testing.assert_allclose(alone.vector_BD, whole, rtol=1e-5, atol=1e-6)


class TestCaptions:
    def test_captions_are_those_of_records_or_beside_files_and_three_scales_are_told(
        self, world, encoder, tmp_path, capsys
    ):
        folder, found = encoder
        run("scores", world / "records", f"--features {folder} --out {tmp_path}/f.json")
        figures = told(tmp_path / "f.json")
        assert list(figures) == ["CLIP cosine", "CLIP score", "CLIPScore"]
        records = list(Records.open(world / "records"))
        vectors = found.images(np.stack([images.decode(record.image) for record in records]))
        cosine = (vectors * found.texts([record.text for record in records])).sum(axis=1)
        assert figures["CLIP cosine"]["value"] == pytest.approx(cosine.mean(), abs=1e-5)
        assert figures["CLIP score"]["value"] == pytest.approx(100 * np.maximum(cosine, 0).mean(), abs=1e-3)
        assert figures["CLIPScore"]["value"] == pytest.approx(2.5 * np.maximum(cosine, 0).mean(), abs=1e-5)
        low, high = (figures["CLIP cosine"][name] for name in ("low", "high"))
        assert low < cosine.mean() < high and high - low < 4 * cosine.std()
        assert all("encoder " in figure["by"] and "unit vectors" in figure["by"] for figure in figures.values())
        (tmp_path / "files").mkdir()
        for i, record in enumerate(records[:7]):
            (tmp_path / "files" / f"{i}.png").write_bytes(record.image)
            (tmp_path / "files" / f"{i}.txt").write_text(record.text + "\n", encoding="utf-8")
        run("scores", tmp_path / "files", f"--features {folder} --out {tmp_path}/g.json")
        assert told(tmp_path / "g.json")["CLIP cosine"]["value"] == pytest.approx(cosine[:7].mean(), abs=1e-5)
        (tmp_path / "files" / "3.txt").unlink()
        with pytest.raises(UserError, match=r"3\.png has no caption: give records, what `reimagen sample` drew"):
            run("scores", tmp_path / "files", f"--features {folder}")

    def test_a_published_clip_gives_clip_fid_of_vectors_as_they_are_and_is_named(self, world, tmp_path):
        folder, records = write_clip(tmp_path / "clip"), world / "records"
        run("statistics", records, f"--features {folder} --out {tmp_path}/s.npz")
        run("fid", records, f"{tmp_path}/s.npz --features {folder} --out {tmp_path}/f.json")
        run("scores", records, f"--features {folder} --out {tmp_path}/g.json")
        figures = told(tmp_path / "f.json") | told(tmp_path / "g.json")
        assert list(figures) == ["CLIP-FID", "CLIP-FID without bias", "CLIP cosine", "CLIP score", "CLIPScore"]
        assert {figure["by"][:23] for figure in figures.values()} == {"CLIP ViT 24 x 2/8 at 16"}
        encoder, shown = clip.open(folder), list(Records.open(records))
        pictures = np.stack([images.decode(record.image) for record in shown])
        vectors = encoder.image_vectors(pictures)
        lengths = np.linalg.norm(vectors, axis=1)
        assert abs(lengths - 1).max() > 0.1, "they are not normalised"
        np.testing.assert_allclose(vectors / lengths[:, None], encoder.images(pictures), rtol=1e-5)
        with np.load(tmp_path / "s.npz") as file:
            np.testing.assert_allclose(file["mu"], vectors.mean(axis=0), rtol=1e-4, atol=1e-5)
        cosine = (encoder.images(pictures) * encoder.texts([record.text for record in shown])).sum(axis=1)
        assert figures["CLIP cosine"]["value"] == pytest.approx(cosine.mean(), abs=1e-5)

    def test_without_texts_and_classes_there_is_nothing_to_score(self, drawn, rater, inception):
        for features in (rater, f"{inception} --point 768"):
            with pytest.raises(UserError, match="tells neither Inception's classes nor reads texts"):
                run("scores", drawn, f"--features {features}")


def test_what_a_model_draws_is_measured_as_it_draws(model, world, rater, tmp_path, capsys):
    """The same figures as of the pictures that `sample` writes."""
    from reimagen_jax.cli import main

    how = f"--model {model} --records {world}/records --limit 9 --knowledge-base {world}/index --steps 2 --num-images 1"
    run("drawn", world / "records", f"{how} --features {rater} --batch-size 4 --out {tmp_path}/f.json")
    assert main(["sample", *shlex.split(f"{how} --batch-size 4 --out {tmp_path}/drawn")]) == 0
    run("fid", tmp_path / "drawn", world / "records", f"--features {rater} --out {tmp_path}/g.json")
    found, expected = told(tmp_path / "f.json"), told(tmp_path / "g.json")
    assert list(found) == list(expected) and json.loads((tmp_path / "f.json").read_text())["pictures"]["count"] == 9
    for name, figure in expected.items():
        assert found[name]["value"] == pytest.approx(figure["value"], rel=1e-6, abs=1e-9)
    assert list(tmp_path.glob("*.png")) == []
    with pytest.raises(UserError, match="nothing to draw"):
        run("drawn", world / "records", f"--model {model} --features {rater}")
