"""EntityDrawBench: fresh prompts, neighbours as their source promises, outcomes stored once, one compiled program."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from reimagen_jax.commands import evaluate
from reimagen_jax.data.entityworld import CATEGORIES, World, entity_look, render_batch
from reimagen_jax.data.records import ImageText, write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation import entity_bench, entity_pictures, entity_prompts, entity_tables
from reimagen_jax.evaluation.entity_bench import TRUTH, Condition, EntityBench, plan, run_condition, truths
from reimagen_jax.evaluation.entity_prompts import SOURCES, Inventory, draw_prompts, find_neighbours, world_of
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.inference.cascade import Cascade
from reimagen_jax.inference.generator import Generator
from reimagen_jax.pretrained.weights import save_weights
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen import ReImagen
from tests.samples import records_of
from tests.tiny import TINY, TINY_SR, random_params

WORLD = World(num_entities=40, num_images=240)
MODEL = dataclasses.replace(TINY, resolution=32)
SPLITS = ("frequent", "rare", "unseen")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> KnowledgeBase:
    folder = tmp_path_factory.mktemp("world")
    items = WorldSource(WORLD, resolution=32).items()
    records = write_records(items, folder / "records", source="world", settings={"world": vars(WORLD)})
    return KnowledgeBase.build(records, folder / "index")


@pytest.fixture(scope="module")
def inventory(base) -> Inventory:
    return Inventory.read(base)


@pytest.fixture(scope="module")
def rater() -> Rater:
    return Rater.open()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import jax

    folder = tmp_path_factory.mktemp("model")
    save_weights(folder, MODEL, jax.jit(ReImagen(MODEL).init)(jax.random.key(0)))
    return folder


class Copyist:
    """Draws the first neighbour's entity in the prompt's scene; an entity of its own choice without neighbours."""

    def __init__(self, inventory: Inventory):
        self.inventory = inventory
        self.config, self.sampler, self.seed, self.max_neighbours, self.batch_size = MODEL, MODEL.sampler, 0, 3, 8
        self.calls = 0

    def __call__(self, requests, what=""):
        self.calls += 1
        known = {p.text: p for split in SPLITS for p in draw_prompts(self.inventory, split, 10, self.seed)}
        prompts = [known[request.prompt] for request in requests]
        drawn = [self.inventory.shown(request.neighbours[:1]) or [3] for request in requests]
        looks = np.stack([entity_look(WORLD.seed, ids[0]) for ids in drawn])
        images = render_batch(looks, truths(prompts, 1)[1], MODEL.resolution)
        return np.round(images * 255).astype(np.uint8)


@pytest.fixture
def bench(inventory, rater) -> EntityBench:
    return EntityBench(Copyist(inventory), "copyist", rater, inventory, num_prompts=10, num_images=2)


# -- prompts


def test_prompts_are_fresh_about_the_split_and_the_first_of_more(inventory):
    stored = set(inventory.base.records.texts())
    for split in SPLITS:
        prompts = draw_prompts(inventory, split, 12, seed=0)
        assert all(WORLD.split_of(p.index) == split for p in prompts)
        assert not stored & {p.text for p in prompts}
        assert all(p.name in p.text and CATEGORIES[p.look[0]] in p.text for p in prompts)
        assert len({p.index for p in prompts}) == min(12, len(WORLD.entities(split)))
        assert [p.text for p in draw_prompts(inventory, split, 5, seed=0)] == [p.text for p in prompts[:5]]
        assert [p.text for p in draw_prompts(inventory, split, 12, seed=1)] != [p.text for p in prompts]


def test_a_caption_that_the_base_holds_is_worded_anew(inventory):
    first = draw_prompts(inventory, "unseen", 1, seed=0)[0].text
    knowing = dataclasses.replace(inventory)
    knowing.__dict__["texts"] = inventory.texts | {first}
    (other,) = draw_prompts(knowing, "unseen", 1, seed=0)
    assert other.text != first and other.index == draw_prompts(inventory, "unseen", 1, seed=0)[0].index


@pytest.mark.parametrize("source", SOURCES)
def test_neighbours_are_what_their_source_promises(source, inventory):
    prompts = draw_prompts(inventory, "unseen", 8, seed=0)
    found = find_neighbours(source, prompts, inventory, 3, 32, seed=0)
    fewer = find_neighbours(source, prompts, inventory, 2, 32, seed=0)
    for prompt, neighbours, two in zip(prompts, found, fewer, strict=True):
        shown = inventory.shown(neighbours)
        assert [n.key for n in two] == [n.key for n in neighbours[:2]]
        assert len(neighbours) == len({n.key for n in neighbours}) == (0 if source == "none" else 3)
        assert all(n.image.shape == (32, 32, 3) for n in neighbours)
        if source == "retrieval":
            assert set(shown) == {prompt.index}
        elif source == "random":
            assert prompt.index not in shown
        elif source == "wrong":
            assert len(set(shown)) == 1 and shown[0] != prompt.index
            assert entity_look(WORLD.seed, shown[0])[0] == prompt.look[0]
    if source == "random":
        assert len({entity_look(WORLD.seed, i)[0] for n in found for i in inventory.shown(n)}) > 1


def test_only_entityworld_has_looks_to_compare_with(tmp_path, base):
    other = KnowledgeBase.build(records_of(tmp_path / "r", ["a cat", "a dog"]), tmp_path / "i")
    with pytest.raises(UserError, match="not a knowledge base of EntityWorld"):
        world_of(other)
    examples = list(base.records.fetch(range(3)))
    older = write_records(examples, tmp_path / "old", source="x", settings={"world": {"seed": 0, "size": 3}})
    with pytest.raises(UserError, match=r"settings.*size"):
        world_of(KnowledgeBase.build(older, tmp_path / "oldindex"))
    changed = [ImageText(e.key, e.image, e.text, {**e.attributes, "look": [0] * 9}) for e in examples]
    redrawn = write_records(changed, tmp_path / "new", source="x", settings={"world": vars(WORLD)})
    with pytest.raises(UserError, match="another version of EntityWorld"):
        Inventory.read(KnowledgeBase.build(redrawn, tmp_path / "newindex"))


def test_a_split_without_images_is_refused(tmp_path):
    items = list(WorldSource(WORLD, resolution=16).items())[:20]  # of frequent entities
    records = write_records(items, tmp_path / "r", source="x", settings={"world": vars(WORLD)})
    inventory = Inventory.read(KnowledgeBase.build(records, tmp_path / "i"))
    with pytest.raises(UserError, match=r"no image of an entity of the split unseen.*--splits"):
        draw_prompts(inventory, "unseen", 1, seed=0)


# -- conditions


def test_the_plan_has_every_condition_once():
    rows = plan(SPLITS, SOURCES, 2, 0.5, range(5), np.arange(11) / 10, ("unseen",))
    assert len(rows) == len(set(rows)) == 3 + 5 * 3 + 3 + 10  # k 0 is none; k 2 at eta 0.5 is retrieval
    assert sum(row.source == "none" for row in rows) == sum(row.source == TRUTH for row in rows) == 3
    unseen = [row for row in rows if row.split == "unseen" and row.source == "retrieval"]
    assert {row.k for row in unseen} == {1, 2, 3, 4} and len({row.eta for row in unseen}) == 11


def test_verdicts_are_about_the_prompts_entity(bench):
    ceiling = bench.outcome(Condition("unseen", TRUTH))
    retrieval = bench.outcome(Condition("unseen", "retrieval", 2, 0.5))
    wrong = bench.outcome(Condition("unseen", "wrong", 2, 0.5))
    none = bench.outcome(Condition("unseen", "none"))
    assert ceiling.faithful_NS.mean() >= 0.9 and ceiling.aligned_NS.mean() >= 0.9
    assert retrieval.faithful_NS.mean() >= 0.9 and retrieval.copied_NS.mean() >= 0.9
    assert wrong.faithful_NS.mean() == 0 and wrong.copied_NS.mean() >= 0.9
    assert none.faithful_NS.mean() == 0 and none.copied_NS.mean() == 0
    for outcome in (retrieval, wrong, none):  # the scene is that of the prompt whatever the neighbours show
        assert outcome.aligned_NS.shape == (10, 2) and outcome.aligned_NS.mean() >= 0.9
    assert retrieval.found_N.tolist() == [1.0] * 10 and wrong.found_N.tolist() == none.found_N.tolist() == [0.0] * 10


def test_prompts_and_noise_are_the_same_under_every_condition(bench):
    first, second = (bench.requests(Condition("rare", "retrieval", k, eta)) for k, eta in ((3, 0.5), (1, 0.1)))
    assert [r.prompt for r in first] == [r.prompt for r in second]
    assert [r.index for r in first] == [r.index for r in second] == list(range(20))
    assert {len(r.neighbours) for r in first} == {3} and {len(r.neighbours) for r in second} == {1}
    assert [r.neighbours[0].key for r in first] == [r.neighbours[0].key for r in second]
    assert {r.eta for r in second} == {0.1}


def test_outcomes_are_stored_and_found_again_until_a_setting_changes(bench, tmp_path):
    condition = Condition("unseen", "retrieval", 2, 0.5)
    drawn = run_condition(bench, condition, tmp_path)
    again = run_condition(bench, condition, tmp_path)
    assert bench.generator.calls == 1
    for field in dataclasses.fields(drawn):
        one, other = getattr(drawn, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype.kind == np.asarray(other).dtype.kind
    for changed in ({"model": "other"}, {"num_prompts": 5}, {"num_images": 1}):
        for name, value in changed.items():
            before = getattr(bench, name)
            setattr(bench, name, value)
            assert not entity_bench.stored(bench, condition, tmp_path).is_file()
            setattr(bench, name, before)
    assert not entity_bench.stored(bench, Condition("unseen", "retrieval", 2, 0.6), tmp_path).is_file()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png"} and len(list(tmp_path.iterdir())) == 2
    strip = entity_pictures.read_strip(entity_bench.strip(bench, condition, tmp_path))
    np.testing.assert_array_equal(strip, bench.draw(condition)[::2][: entity_bench.SHOWN])


def test_all_conditions_run_through_one_program(inventory, rater, model):
    generator = Generator.open(model, max_neighbours=3, batch_size=4)
    bench = EntityBench(generator, "tiny", rater, inventory, num_prompts=5)
    bench.seconds_per_image(Condition("unseen", "retrieval", 2, 0.5))
    for condition in plan(("unseen",), ("retrieval", "none", "wrong"), 2, 0.5, (1, 3), (0.0, 1.0), ("unseen",)):
        assert bench.outcome(condition).faithful_NS.shape == (5, 1)
    assert generator.compilations == 1


# -- super-resolution


def stage(config, **settings) -> Generator:
    return Generator(config, random_params(config), batch_size=4, **settings)


def test_a_super_resolution_model_alone_enlarges_the_true_images(inventory, rater):
    enlarge = stage(TINY_SR, max_neighbours=2)
    bench = EntityBench(enlarge, "tiny", rater, inventory, num_prompts=3, num_images=2)
    requests = bench.requests(Condition("unseen", "none"))
    truth = bench.draw(Condition("unseen", TRUTH))
    for request, image in zip(requests, truth, strict=True):
        low = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        assert request.low_res.shape == (16, 16, 3) and np.abs(request.low_res - low).max() <= 0.5
    assert bench.outcome(Condition("unseen", "retrieval", 2, 0.5)).faithful_NS.shape == (3, 2)


def test_a_cascades_last_images_are_rated_and_every_stage_counts_for_the_checksum(inventory, rater):
    first = stage(TINY, max_neighbours=2)
    with_neighbours, without = (Cascade([first, stage(TINY_SR, max_neighbours=k)]) for k in (2, 0))
    one, other = (EntityBench(each, "x", rater, inventory, num_prompts=3) for each in (with_neighbours, without))
    condition = Condition("unseen", "retrieval", 2, 0.5)
    assert one.outcome(condition).faithful_NS.shape == (3, 1)
    assert one.settings(condition) != other.settings(condition)
    assert all(request.low_res is None for request in one.requests(condition))


# -- tables


def test_rows_and_comparisons_are_means_of_the_ratings(bench):
    conditions = plan(("frequent", "unseen"), ("retrieval", "none"), 2, 0.5)
    outcomes = {condition: bench.outcome(condition) for condition in conditions}
    retrieval = Condition("unseen", "retrieval", 2, 0.5)
    half = outcomes[retrieval].faithful_NS.copy()
    half[:, 1], half[:5, 0] = False, False
    outcomes[retrieval] = dataclasses.replace(outcomes[retrieval], faithful_NS=half)
    row = entity_tables.row(retrieval, outcomes[retrieval])
    assert row["faithfulness"].mean == half.mean() <= 0.25 and row["best_faithfulness"].mean == half.any(axis=1).mean()
    assert row["alignment"].mean == outcomes[retrieval].aligned_NS.mean()
    assert row["parameters"]["category"].mean == outcomes[retrieval].look_right_NSP[..., 0].mean()
    found = {entry["what"]: entry["difference"] for entry in entity_tables.comparisons(outcomes, 2, 0.5)}
    assert found["faithfulness, unseen: retrieval minus none"].mean == pytest.approx(half.mean())
    assert found["faithfulness with retrieval: frequent minus unseen"].low > 0.3
    assert len(found) == 3


# -- the command


def run(base, model, out, *more: str) -> None:
    common = ("--model", str(model), "--knowledge-base", str(base.path), "--out", str(out), "--num-prompts", "4")
    evaluate.main(["entities", *common, "--splits", "unseen", "rare", *more])


def test_the_command_writes_tables_and_goes_on_after_a_stop(base, model, tmp_path, capsys, monkeypatch):
    out, options = tmp_path / "out", ("--conditions", "retrieval", "none", "--ks", "1", "--etas", "0", "1")
    evaluated = entity_bench.run_condition

    def interrupted(bench, condition, folder):
        if condition.source == "none":
            raise KeyboardInterrupt
        return evaluated(bench, condition, folder)

    monkeypatch.setattr(entity_bench, "run_condition", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(base, model, out, *options)
    partly = json.loads((out / "results.json").read_text())
    assert not partly["complete"] and len(partly["rows"]) == 4
    monkeypatch.setattr(entity_bench, "run_condition", evaluated)
    capsys.readouterr()
    run(base, model, out, *options)
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and len(results["rows"]) == 2 + 2 + 2 + 1 + 2
    assert results["rows"][:4] == partly["rows"]
    assert "5 conditions to draw, 20 images" in printed and "this takes about" in printed
    assert results["rater"]["faithful"][0] >= 0.9 and "fresh true renders" in printed
    assert results["world"]["num_entities"] == 40 and "reimagen evaluate entities" in results["command"]
    with (out / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(r["split"], r["source"]) for r in table] == [(r["split"], r["source"]) for r in results["rows"]]
    assert all(float(r["rater_ceiling_faithfulness"]) >= 0.9 for r in table)
    for name in (
        "faithfulness.png",
        "alignment.png",
        "eta.png",
        "unseen.png",
        "rare.png",
        "parameters.csv",
        "prompts.json",
    ):
        assert (out / name).stat().st_size > 0


def test_the_command_takes_a_cascade_and_notes_every_stage(base, tmp_path):
    folders = [tmp_path / config.name for config in (TINY, TINY_SR)]
    for folder, config in zip(folders, (TINY, TINY_SR), strict=True):
        save_weights(folder, config, random_params(config))
    out = tmp_path / "out"
    common = ("--model", str(folders[0]), "--cascade", str(folders[1]), "--knowledge-base", str(base.path))
    rows = ("--conditions", "retrieval", "--splits", "unseen", "--ks", "--etas", "--num-prompts", "2")
    evaluate.main(["entities", *common, *rows, "--cascade-k", "0", "--cascade-steps", "2", "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and [stage["model"] for stage in results["cascade"]] == [TINY_SR.name]
    assert "--cascade-k 0" in results["command"] and "--cascade-steps 2" in results["command"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cascade-k", "1"), "no models of --cascade"),
        (("--cascade", "{model}"), "base model: it enlarges nothing"),
        (("--eta", "1.5"), "between 0 and 1"),
        (("--etas", "-0.1"), "between 0 and 1"),
        (("--k", "0"), "at least 1"),
        (("--ks", "-1"), "numbers of neighbours"),
        (("--num-prompts", "0"), "at least 1"),
        (("--rater", "nowhere"), "holds no rater"),
        (("--knowledge-base", "nowhere"), "not found"),
    ],
)
def test_bad_input_is_refused(base, model, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(base, model, tmp_path / "out", *(option.format(model=model) for option in options))
    assert not (tmp_path / "out").exists()


def test_sources_of_the_command_are_those_there_are():
    assert set(evaluate.Source.__args__) == set(entity_prompts.SOURCES)
