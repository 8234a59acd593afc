"""`reimagen evaluate fid` and `statistics`: figures of sets in files, statistics that others write, what is refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from reimagen_jax.commands import evaluate
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import distances
from reimagen_jax.evaluation.distances import Gaussian
from reimagen_jax.evaluation.rater import Rater


def run(command, *words):
    evaluate.main([command, *shlex.split(" ".join(map(str, words)))])


@pytest.fixture(scope="module")
def drawn(world, tmp_path_factory):
    """60 pictures of the world, and the same as an archive would have them, in grey."""
    from reimagen_jax.data import images
    from reimagen_jax.data.records import Records

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
    return {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}


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
    assert "4 pictures span fewer than the 16 dimensions" in capsys.readouterr().out


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
        ({"mu": np.full(16, None), "sigma": np.eye(16)}, "no finite numbers"),
        ({"mu": np.zeros(16), "sigma": np.eye(16), "count": "many"}, "cannot be read as statistics"),
        ({"mu": np.zeros(16), "sigma": np.eye(16), "features": "Inception's"}, "of other features, Inception's"),
        ({"other": np.zeros(3)}, "neither pictures"),
    ],
)
def test_statistics_that_are_none_of_these_features_are_refused(drawn, rater, tmp_path, arrays, said):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(UserError, match=said):
        run("fid", drawn, tmp_path / "s.npz", f"--features {rater}")


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
    for command, words, said in (
        ("fid", f"{drawn} {drawn} --out {tmp_path}/there.npz", "already exists: pass --overwrite"),
        ("fid", f"{drawn} {drawn} --out {tmp_path}/no/f.json", "make the folder first"),
        ("fid", f"{drawn} {drawn} --features {tmp_path}", "holds no encoder"),
        ("fid", f"{drawn} {tmp_path}/gone", "gone not found"),
        ("statistics", f"{drawn} --out {tmp_path}/s.txt", "NAME.npz"),
        ("statistics", f"{drawn} --out {tmp_path}/there.npz", "already exists: pass --overwrite"),
    ):
        with pytest.raises(UserError, match=said):
            run(command, words)
    assert (tmp_path / "there.npz").read_bytes() == b"", "nothing was written"
