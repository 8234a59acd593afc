"""The feed: a batch is a function of the step; processes share it; the neighbours kept are drawn as promised."""

from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pytest

from reimagen_jax.data import images
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.encoders.tokenizers import ByteTokenizer
from reimagen_jax.errors import UserError
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.systems.reimagen.batches import draw_kept_neighbours, make_dataset
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from reimagen_jax.systems.reimagen.settings import TriplesConfig
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.systems.request import Neighbour, Request
from tests.samples import encoded, picture, records_of
from tests.tiny import TINY, TINY_CROPS, changed

NUMBER = 13


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """13 records in one base, two neighbours each but for the last, which has none."""
    folder = tmp_path_factory.mktemp("loader")
    texts = [f"number {i} of the {'red' if i % 2 else 'blue'} ones" for i in range(NUMBER - 1)] + ["lonely"]
    records = records_of(folder / "r", texts)
    return build_triples(records, KnowledgeBase.build(records, folder / "kb"), 2, folder / "t")


def config(**data):
    settings = TriplesConfig(**{"batch_size": 4, "num_neighbours": 2, "threads": 2} | data)
    return replace(changed(TINY, resolution=8), data=settings)


def batches(triples, number, experiment=None, **options):
    return list(islice(iter(make_dataset(triples, experiment or config(), **options)), number))


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def record_ids(batch, triples):
    """Which records a batch holds, told by their pixels."""
    pictures = [images.decode(record.image, 8).tobytes() for record in triples.records]
    return [pictures.index(image.tobytes()) for image in batch.image_BHWC]


def test_shapes_and_types(triples):
    (batch,) = batches(triples, 1)
    assert (batch.image_BHWC.shape, batch.image_BHWC.dtype) == ((4, 8, 8, 3), np.uint8)
    assert (batch.tokens_BL.shape, batch.tokens_BL.dtype) == ((4, 32), np.int32)
    assert (batch.nbr_image_BKHWC.shape, batch.nbr_image_BKHWC.dtype) == ((4, 2, 8, 8, 3), np.uint8)
    assert (batch.nbr_tokens_BKL.shape, batch.nbr_tokens_BKL.dtype) == ((4, 2, 32), np.int32)
    assert (batch.nbr_mask_BK.shape, batch.nbr_mask_BK.dtype) == ((4, 2), bool)


def as_spec(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), tree)


def test_a_batch_is_as_the_system_says(triples):
    for each in (config(), config(num_neighbours=0), TestCrops.config(), TestCrops.config(crop=0)):
        (batch,) = batches(triples, 1, each)
        assert as_spec(batch) == as_spec(ReImagen(each).batch_spec(4))


def test_everything_belongs_together(triples):
    tokenizer = ByteTokenizer(32)
    for batch in batches(triples, 6):
        for b, record in enumerate(record_ids(batch, triples)):
            text = triples.records[record].text
            np.testing.assert_array_equal(batch.tokens_BL[b], tokenizer.encode([text])[0])
            for k, neighbour in enumerate(triples.neighbours[record]):
                image, tokens = batch.nbr_image_BKHWC[b, k], batch.nbr_tokens_BKL[b, k]
                if batch.nbr_mask_BK[b, k]:
                    other = triples.knowledge_base.records[int(neighbour)]
                    np.testing.assert_array_equal(image, images.decode(other.image, 8))
                    np.testing.assert_array_equal(tokens, tokenizer.encode([other.text])[0])
                else:
                    assert not image.any()
                    assert not tokens.any()


def test_every_epoch_has_every_record_in_another_order(triples):
    ids = [i for batch in batches(triples, NUMBER) for i in record_ids(batch, triples)]
    epochs = [ids[e * NUMBER : (e + 1) * NUMBER] for e in range(4)]
    assert all(sorted(epoch) == list(range(NUMBER)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_resumes_at_any_step(triples):
    straight = batches(triples, 9)
    for step in (0, 1, 5):
        first = iter(make_dataset(triples, config()))
        for _ in range(step):
            next(first)
        resumed = iter(make_dataset(triples, config()))
        resumed.set_state(first.get_state())
        assert equal(list(islice(resumed, 9 - step)), straight[step:])


def test_seed_decides(triples):
    assert equal(batches(triples, 3), batches(triples, 3, config(threads=7)))
    assert not equal(batches(triples, 3), batches(triples, 3, config(seed=1)))


def test_memory_changes_nothing(triples):
    assert equal(batches(triples, 8), batches(triples, 8, cache_bytes=0))


def test_processes_share_a_batch(triples):
    whole = batches(triples, 5)
    parts = [batches(triples, 5, process_index=p, process_count=2) for p in range(2)]
    for step in range(5):
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part[step] for part in parts))
        assert equal(joined, whole[step])


def test_fewer_neighbours_than_stored(triples):
    one = batches(triples, 4, config(num_neighbours=1, min_neighbours=1))
    two = batches(triples, 4, config(min_neighbours=2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.nbr_image_BKHWC, b.nbr_image_BKHWC[:, :1])
    none = batches(triples, 2, config(num_neighbours=0))
    assert none[0].nbr_image_BKHWC.shape == (4, 0, 8, 8, 3)
    assert none[0].nbr_mask_BK.shape == (4, 0)


def test_more_neighbours_than_stored_is_refused(triples):
    with pytest.raises(UserError, match="--num-neighbours 3"):
        make_dataset(triples, config(num_neighbours=3))


def test_of_more_candidates_than_neighbours_some_are_drawn_anew_each_time(triples, tmp_path):
    """In their order, from the step alone, whatever the process; over the epochs all of them."""
    base = triples.knowledge_base
    more = build_triples(base.records, base, 2, tmp_path / "t", num_candidates=5)
    pictures = [images.decode(record.image, 8).tobytes() for record in base.records]
    shown = {record: [] for record in range(NUMBER)}
    steps = batches(more, 60)
    for batch in steps:
        for b, record in enumerate(record_ids(batch, more)):
            seen = [pictures.index(image.tobytes()) for image in batch.nbr_image_BKHWC[b][batch.nbr_mask_BK[b]]]
            places = [more.neighbours[record].tolist().index(n) for n in seen]
            assert places == sorted(set(places)) and batch.nbr_mask_BK[b].tolist() == sorted(batch.nbr_mask_BK[b])[::-1]
            assert len(places) <= min(2, (more.neighbours[record] >= 0).sum())
            shown[record].append(tuple(places))
    for record, drawn in shown.items():
        found = set(range((more.neighbours[record] >= 0).sum()))
        assert set().union(*drawn) == found
        assert not found or len(set(drawn)) > 3
    assert all(map(equal, batches(more, 60), steps))
    parts = [batches(more, 3, process_index=i, process_count=2) for i in range(2)]
    for step, halves in zip(steps, zip(*parts, strict=True), strict=False):
        assert equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *halves), step)


def test_uneven_share_is_refused(triples):
    with pytest.raises(UserError, match="3 processes"):
        make_dataset(triples, config(), process_index=0, process_count=3)


class TestCrops:
    """Images of 8 pixels, stages from 4 to 8 trained on crops of 4."""

    @staticmethod
    def config(crop=4, **data):
        small = replace(TINY_CROPS.system.unet, patch=1)
        stage = replace(TINY_CROPS.system.super_resolution, low_resolution=4, crop=crop)
        settings = TriplesConfig(**{"batch_size": 4, "num_neighbours": 0, "threads": 2} | data)
        return replace(changed(TINY_CROPS, resolution=8, unet=small, super_resolution=stage), data=settings)

    def test_a_crop_is_a_part_of_its_image_on_the_low_resolution_grid(self, triples):
        places = set()
        pairs = zip(batches(triples, 24, self.config()), batches(triples, 24, self.config(crop=0)), strict=True)
        for cut, whole in pairs:
            assert cut.image_BHWC.shape == (4, 4, 4, 3)
            for part, image in zip(cut.image_BHWC, whole.image_BHWC, strict=True):
                found = [
                    (y, x) for y in range(5) for x in range(5) if np.array_equal(part, image[y : y + 4, x : x + 4])
                ]
                assert len(found) == 1 and found[0][0] % 2 == 0 and found[0][1] % 2 == 0
                places |= set(found)
        assert len(places) == 9, "all of the grid's places are drawn"

    def test_crops_depend_on_step_and_seed_alone(self, triples):
        straight = batches(triples, 6, self.config())
        assert equal(batches(triples, 6, self.config(threads=5), cache_bytes=0), straight)
        assert not equal(batches(triples, 6, self.config(seed=1)), straight)
        first = iter(make_dataset(triples, self.config()))
        for _ in range(3):
            next(first)
        resumed = iter(make_dataset(triples, self.config()))
        resumed.set_state(first.get_state())
        assert equal(list(islice(resumed, 3)), straight[3:])
        parts = [batches(triples, 6, self.config(), process_index=p, process_count=2) for p in range(2)]
        for step, whole in enumerate(straight):
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part[step] for part in parts))
            assert equal(joined, whole)

    def test_images_without_the_detail_to_learn_are_refused(self, triples):
        with pytest.raises(UserError, match="images of 8 pixels, but this stage learns to draw 16"):
            make_dataset(triples, changed(self.config(), resolution=16))


class TestKeptNeighbours:
    def draw(self, found, fewest, seed=0):
        return draw_kept_neighbours(np.random.default_rng(seed), found, fewest)

    def test_number_is_uniform_and_each_place_as_likely(self):
        kept = self.draw(np.ones((20_000, 4), bool), 1)
        shares = np.bincount(kept.sum(1), minlength=5) / 20_000
        np.testing.assert_allclose(shares, [0, 0.25, 0.25, 0.25, 0.25], atol=0.015)
        np.testing.assert_allclose(kept.mean(0), 2.5 / 4, atol=0.015)

    def test_only_found_ones_are_kept_and_all_when_few(self):
        found = np.random.default_rng(1).random((1000, 4)) < 0.5
        kept = self.draw(found, 2)
        assert not (kept & ~found).any()
        assert (kept.sum(1) >= np.minimum(found.sum(1), 2)).all()

    def test_all_are_kept_when_none_may_go(self):
        found = np.random.default_rng(2).random((1000, 4)) < 0.5
        np.testing.assert_array_equal(self.draw(found, 4), found)


def test_pictures_smaller_than_the_model_draws_are_refused_or_enlarged_by_choice_and_told_of(triples, capsys):
    batches(triples, 1)
    assert capsys.readouterr().err == "", "they are large enough"
    side = min(images.load(triples.records[0].image).size)
    larger = changed(TINY, resolution=4 * side)
    found = f"13 of 13 pictures in {triples.records.path} are smaller than {4 * side}"
    with pytest.raises(UserError, match=rf"^{found} pixels, of 8 pixels: .* --resolution 32 .*--data\.enlarge"):
        make_dataset(triples, replace(larger, data=config().data))
    (batch,) = batches(triples, 1, replace(larger, data=config(enlarge=True).data))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and found in said and batch.image_BHWC.shape[1:3] == (4 * side, 4 * side)


def test_neighbours_smaller_than_the_model_draws_are_told_of(triples, tmp_path, capsys):
    large = (ImageText(f"l{i}", encoded(picture(50 + i, (16, 16))), "number 1 of the red ones") for i in range(6))
    records = write_records(large, tmp_path / "large", source="large")
    mixed = build_triples(records, triples.knowledge_base, 1, tmp_path / "t")
    batches(mixed, 1, replace(changed(TINY, resolution=16), data=config(num_neighbours=1).data))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"13 of 13 pictures in {triples.records.path} are smaller than 16 pixels, of 8 pixels: they are" in said


def test_neighbours_that_a_drawing_network_sees_enlarged_are_told_of_once(capsys):
    feed = ReImagenFeed(TINY)

    def request(*sides):
        found = [ImageText(f"of {side}", encoded(picture(side, (side, side + 3))), "a thing") for side in sides]
        return Request("a thing", tuple(Neighbour.of(record, 1.0, 16) for record in found))

    feed.prepare([request(16, 40), request()])
    assert capsys.readouterr().err == ""
    feed.prepare([request(16, 9), request(9)])
    feed.prepare([request(8)])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "neighbours are images of 9 pixels, which the stage of 16 pixels sees enlarged" in said
