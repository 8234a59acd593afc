"""`reimagen augment`: variants of records by whatever draws from a picture; it goes on where it was."""

import json
import shlex

import jax
import numpy as np
import pytest

from reimagen_jax.commands import augment
from reimagen_jax.commands.augment import Augment
from reimagen_jax.commands.usage import run
from reimagen_jax.data import images
from reimagen_jax.data.records import Records, write_records
from reimagen_jax.errors import UserError
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.pipeline import Stage
from tests.rcg import GENERATOR, RDM
from tests.samples import example
from tests.seeing import tiny_dual_in
from tests.systems.test_unclip import random_params
from tests.tiny import TINY
from tests.unclip import DECODER

MODELS = {"reimagen": TINY, "decoder": DECODER, "generator": GENERATOR, "rdm": RDM}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with records, some of them, and models."""
    folder = tmp_path_factory.mktemp("inputs")
    examples = [
        example(i, f"the {name}", name, kind="pet", source="a farm") for i, name in enumerate(("cat", "dog", "cow"))
    ]
    write_records(examples, folder / "records", source="farm")
    write_records([examples[0], examples[1]], folder / "fewer", source="farm")
    for name, config in MODELS.items():
        (folder / name).mkdir()
        params = random_params(config)
        if "statistics" in params.get("encoder", {}):  # variances are not below 0
            params["encoder"]["statistics"] = jax.tree.map(lambda x: abs(x) + 0.1, params["encoder"]["statistics"])
        save_weights(folder / name, config, params)
    tiny_dual_in(folder / "encoder")
    return folder


def drawn(inputs, out, options, records="records"):
    words = f"{inputs}/{records} --out {out} --steps 2 --batch-size 4 {options}".replace("IN/", f"{inputs}/")
    run(Augment, "reimagen augment", shlex.split(words))
    return Records.open(out)


def pictures(records):
    return {record.key: images.decode(record.image) for record in records}


@pytest.mark.parametrize("name", ["reimagen", "decoder", "generator"])
def test_each_record_has_variants_of_its_own_that_tell_what_they_are_of(inputs, tmp_path, name):
    found = list(drawn(inputs, tmp_path / "v", f"--model IN/{name} --variants 2"))
    assert [record.key for record in found] == [f"{key}~{v}" for key in ("cat", "dog", "cow") for v in (1, 2)]
    assert [record.text for record in found] == [f"the {key}" for key in ("cat", "dog", "cow") for _ in (1, 2)]
    assert found[3].attributes == {"kind": "pet", "source_before": "a farm", "source": "dog", "variant": 2}, (
        "its own attribute of that name is not lost"
    )
    seen = np.stack([images.decode(record.image) for record in found]).astype(int)
    assert seen.shape[1:] == (MODELS[name].system.resolution,) * 2 + (3,)
    assert all(np.abs(a - b).max() > 0 for i, a in enumerate(seen) for b in seen[:i]), "none is like another"


def test_a_variant_depends_on_its_record_and_number_alone_and_originals_are_kept_as_they_are(inputs, tmp_path):
    two = pictures(drawn(inputs, tmp_path / "two", "--model IN/generator --variants 2"))
    one = pictures(drawn(inputs, tmp_path / "one", "--model IN/generator --variants 1 --batch-size 2"))
    assert one.keys() == {"cat~1", "dog~1", "cow~1"}
    for key, picture in one.items():
        np.testing.assert_allclose(picture.astype(int), two[key].astype(int), atol=1)
    records = drawn(inputs, tmp_path / "all", "--model IN/generator --variants 2 --originals")
    every = pictures(records)
    assert list(every) == [f"{key}{v}" for key in ("cat", "dog", "cow") for v in ("", "~1", "~2")]
    assert records[0].attributes["source"] == "cat" and records[0].attributes["variant"] == 0
    own = pictures(Records.open(inputs / "records"))
    for key, picture in every.items():
        np.testing.assert_array_equal(picture, own[key] if key in own else two[key])


@pytest.mark.parametrize("options", ["", "--originals"])
def test_after_a_stop_it_goes_on_where_it_was(inputs, tmp_path, monkeypatch, capsys, options):
    given = f"--model IN/generator --variants 12 {options}"
    whole = drawn(inputs, tmp_path / "whole", given)
    monkeypatch.setattr(augment, "SHARD", 2)
    monkeypatch.setattr("reimagen_jax.data.sources.base.available_cores", lambda: 1)  # what is read ahead
    batches, asked, stops = Stage.batches, [], [True]

    def stopping(self, requests, seed):
        for batch, samples in batches(self, requests, seed):
            asked.extend(request.index for request in batch)
            if len(asked) > 24 and stops[-1]:
                raise KeyboardInterrupt
            yield batch, samples

    monkeypatch.setattr(Stage, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        drawn(inputs, tmp_path / "again", given)
    assert not (tmp_path / "again").exists() and "the same command goes on" in capsys.readouterr().out
    before = len(asked)
    stops.append(False)
    again = drawn(inputs, tmp_path / "again", given)
    assert "going on after" in capsys.readouterr().out
    assert 12 <= len(asked) - before < 36, "what was complete is not drawn again"
    assert again.fingerprint == whole.fingerprint
    drawn(inputs, tmp_path / "again", given)
    assert "is complete: nothing is left to do" in capsys.readouterr().out


def test_other_variants_are_not_mixed_in_and_what_cannot_be_drawn_from_is_refused(inputs, tmp_path):
    out = tmp_path / "v"
    drawn(inputs, out, "--model IN/generator --variants 1", "fewer")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["variants"] == 1 and manifest["settings"]["stage 1"]["num_steps"] == 2
    for options, said in (
        ("--model IN/generator --variants 2", "variants 1, not 2"),
        ("--model IN/generator --variants 1 --seed 1", "seed 0, not 1"),
        ("--model IN/generator --variants 1 --text-weight 5", "text weight 2"),
        ("--model IN/decoder --variants 1", "source variants of farm"),
    ):
        with pytest.raises(UserError, match=f"already exists.*{said}"):
            drawn(inputs, out, options, "fewer")
    with pytest.raises(UserError, match="is a rdm, which draws no pictures"):
        drawn(inputs, tmp_path / "w", "--model IN/rdm --cascade IN/generator")
    with pytest.raises(UserError, match="variants"):
        drawn(inputs, tmp_path / "w", "--model IN/generator --variants 0")
    assert not (tmp_path / "w").exists()


def squares(image):
    """Means over a grid of 4 x 4."""
    return image.astype(float).reshape(4, 4, 4, 4, 3).mean((1, 3))


SEARCH = "--model IN/reimagen --variants 2 --encoder IN/encoder --low-pass 4"


def test_with_an_encoder_the_noise_is_searched_until_a_variant_is_like_its_record(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(augment, "SEARCHED_SHARD", 2)
    of = {record.key: images.decode(record.image, 16) for record in Records.open(inputs / "records")}

    def apart(records):
        """What the search goes by, without its semantic part."""
        pairs = [(images.decode(each.image), of[each.attributes["source"]]) for each in records]
        return np.array([np.square(squares(drawn) - squares(record)).mean() for drawn, record in pairs])

    words = f"{SEARCH} --semantic-weight 0 --k 0 --solver ddim"
    first = drawn(inputs, tmp_path / "first", f"{words} --norm free --iterations 1 --learning-rate 1e-9")
    searched = drawn(inputs, tmp_path / "searched", f"{words} --iterations 4 --learning-rate 0.5")
    assert [record.key for record in searched] == [record.key for record in first]
    assert (apart(searched) < apart(first)).all()
    text = drawn(inputs, tmp_path / "text", "--model IN/reimagen --variants 2 --k 0 --solver ddim")
    for key, picture in pictures(first).items():
        np.testing.assert_allclose(picture.astype(int), pictures(text)[key].astype(int), atol=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"{SEARCH} --start-iterations 2", "variants are drawn record by record"),
        (f"{SEARCH} --contrast", "variants are drawn record by record"),
        ("--model IN/reimagen --iterations 3", "of no use without --encoder"),
        ("--model IN/generator --k 0", "neighbour"),
        ("--model IN/reimagen --k 2", "--k 2: at most 1"),
    ],
)
def test_searches_that_cannot_be_are_refused(inputs, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        drawn(inputs, tmp_path / "w", options)
    assert not (tmp_path / "w").exists()
