"""unCLIP's autoregressive prior: its numbers, what it knows of them, and what it draws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.inference.provenance import sampler_facts
from reimagen_jax.nets.settings import Tower
from reimagen_jax.systems import kinds
from reimagen_jax.systems.base import Fits
from reimagen_jax.systems.request import Request
from reimagen_jax.systems.unclip.ar_prior import quantile
from reimagen_jax.systems.unclip.arrays import PairBatch
from reimagen_jax.systems.unclip.feed import statistics_of
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step
from tests.systems.test_unclip import TEXTS, on_device, random_params
from tests.unclip import AR_PRIOR, CLIP, changed, neighbour

P, Q = AR_PRIOR.system.dims, AR_PRIOR.system.buckets


@pytest.fixture(scope="module")
def params():
    return random_params(AR_PRIOR)


def asked(texts=TEXTS, **more):
    feed = kinds.feed_of(AR_PRIOR)
    requests = [Request(text, index=i, **more) for i, text in enumerate(texts)]
    return on_device(feed.collate(requests, AR_PRIOR.system.sampler))


@pytest.mark.parametrize("dims", [3, 8])
def test_an_embedding_comes_back_but_for_half_a_bucket_and_what_no_component_holds(dims):
    config = changed(AR_PRIOR, dims=dims, clip=replace(CLIP, normalised=False))
    system, rng = kinds.system_of(config), np.random.default_rng(0)
    z, w = rng.standard_normal((50, 8)) @ np.diag(np.arange(1.0, 9.0)) @ rng.standard_normal((8, 8)), np.ones((50, 8))
    known = statistics_of(z, w, dims)
    tree = {"statistics": on_device(known)}
    np.testing.assert_allclose(known["components"] @ known["components"].T, np.eye(dims), atol=1e-5)
    q = jax.jit(system.numbers)(tree, jnp.asarray(z, jnp.float32), jnp.asarray(w, jnp.float32))
    assert q.shape == (50, dims + 1) and q.min() == 0 and q.max() == Q - 1
    back = np.asarray(jax.jit(system.embedding)(tree, np.asarray(q)[:, 1:]), np.float64)
    axes, half = np.asarray(known["components"], np.float64), np.asarray(known["high"] - known["low"])[1:] / Q / 2
    assert (np.abs((back - z) @ axes.T) <= half * 1.001).all()
    variance = ((z - z.mean(axis=0)) @ axes.T).var(axis=0)
    assert (np.diff(variance) < 0).all()
    lost = (back - z) - (back - z) @ axes.T @ axes
    largest = np.linalg.eigvalsh(np.cov(z.T, bias=True))[::-1]
    np.testing.assert_allclose((lost**2).sum(axis=1).mean(), largest[dims:].sum(), rtol=1e-3, atol=1e-6)


def test_numbers_of_another_range_fall_into_the_last_buckets():
    system = kinds.system_of(AR_PRIOR)
    known = {"mean": np.zeros(8), "components": np.eye(3, 8), "low": -np.ones(4), "high": np.ones(4)}
    tree = {"statistics": {name: jnp.asarray(value, jnp.float32) for name, value in known.items()}}
    far = np.full((2, 8), 1e6, np.float32) * np.array([[1], [-1]], np.float32)
    q_BN = jax.jit(system.numbers)(tree, far, np.ones((2, 8), np.float32))
    np.testing.assert_array_equal(q_BN, np.array([[Q - 1], [0]]).repeat(P + 1, axis=1))


def test_a_number_is_told_by_those_before_it_alone(params):
    system = kinds.system_of(AR_PRIOR)
    text = jax.jit(system.told)(params, asked()).full
    q = np.random.default_rng(0).integers(0, Q, (4, P + 1), np.int32)
    kept, dropped = (
        jax.jit(lambda q, flag=flag: system.logits(params, text, q, jnp.full(4, flag))) for flag in (False, True)
    )
    plain = np.asarray(kept(q))
    for j in range(P + 1):
        other = np.where(np.arange(P + 1) == j, (q + 1) % Q, q)
        away = np.abs(np.asarray(kept(other)) - plain).max(axis=(0, 2))
        assert (away[: j + 1] == 0).all() and (away[j + 1 :] > 0).all()
    np.testing.assert_array_equal(
        dropped(q), dropped(q * (np.arange(P + 1) > 0))
    )  # without the text the dot product is unknown


def test_what_is_drawn_is_what_the_whole_sequence_says_at_each_place(params):
    """Tokens one by one, with a memory, guided, from the top of the dot products: as by all of them at once."""
    system, keys = kinds.system_of(AR_PRIOR), jax.random.split(jax.random.key(5), 4)
    settings, inputs = replace(system.settings, temperature=0.7, top=0.25), asked(guidance={"text_weight": 2.0})
    q = jax.jit(lambda: system.drawn(params, inputs, keys, settings))()

    def whole():
        told = system.told(params, inputs)
        full, null = (system.logits(params, told[i], q, jnp.full(4, i == 1)) for i in range(2))
        u = jax.vmap(lambda key: jax.random.uniform(key, (P + 1,)))(keys)
        first = quantile(full[:, 0] / 0.7, 1.0 - 0.25 * (1.0 - u[:, 0]))
        later = [quantile((2.0 * full[:, j] - null[:, j]) / 0.7, u[:, j]) for j in range(1, P + 1)]
        return jnp.stack([first, *later], axis=1)

    np.testing.assert_array_equal(q, jax.jit(whole)())
    assert len(np.unique(q)) > 3


def test_quantiles_are_draws_and_those_above_a_half_the_top_half():
    p = np.array([0.1, 0.0, 0.4, 0.2, 0.3])
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(p)[None].repeat(1000, axis=0), jnp.float32)
    u, found = (np.arange(1000, dtype=np.float32) + 0.5) / 1000, jax.jit(quantile)

    def shares(u):
        return np.bincount(found(logits, jnp.asarray(u, jnp.float32)), minlength=5) / 1000

    np.testing.assert_allclose(shares(u), p, atol=2e-3)
    np.testing.assert_allclose(shares(0.5 + 0.5 * u), [0, 0, 0, 0.4, 0.6], atol=2e-3)
    assert shares(np.zeros(1000))[0] == 1 and shares(np.ones(1000))[4] == 1


def test_weights_and_neighbours_in_the_batch_share_a_program_and_change_no_other_sample(params):
    stage = Stage(AR_PRIOR, params, batch_size=4)
    requests = [Request(text, index=i, guidance={"text_weight": 1.0 + i}) for i, text in enumerate(TEXTS)]
    together = stage.draw(requests)
    assert together.shape == (4, 8) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(stage.draw([requests[2]])[0], together[2])
    strong = [replace(each, guidance={"text_weight": 30.0}) for each in requests]
    plain, negative = (stage.draw([replace(each, negative=said) for each in strong]) for said in ("", "quite other"))
    assert np.abs(negative - plain).max() > 0.01 and np.abs(plain - together).max() > 0.01
    assert stage.compilations == 1


def test_it_learns_a_distribution_of_two_places_and_draws_both():
    """Where the mean of them, which a regression would give, is never."""
    config = changed(AR_PRIOR, text_drop=0.0, tower=Tower(32, 1, 2, 64, "gelu"))
    system, feed = kinds.system_of(config), kinds.feed_of(config)
    stripes = np.tile(np.array([0, 255] * 4, np.uint8)[None, :, None], (8, 1, 3))
    image = jnp.asarray(np.stack([np.full_like(stripes, 255), stripes] * 8))
    tokens = jnp.asarray(feed.tokenizer.encode(["a"] * 16))
    batch = PairBatch(image, tokens, tokens)
    clip = random_params(config)["clip"]
    pairs = jax.jit(system.pairs)({"clip": clip}, batch)
    known = on_device(statistics_of(*(np.asarray(each, np.float64) for each in pairs), P))
    how = replace(config.train, num_steps=60, learning_rate=1e-2, decay="constant")
    optimizer = make_optimizer(how)
    state = jax.jit(lambda key: init_state(system, optimizer, key, how))(jax.random.key(0))
    state = state.replace(params={**state.params, "clip": clip, "statistics": known})
    step = jax.jit(train_step(system, optimizer, how))
    losses = []
    for i in range(how.num_steps):
        state, metrics = step(state, batch, jax.random.key(i))
        losses.append(float(metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, state.params["statistics"], known)
    assert losses[0] > 2.0 and losses[-1] < 0.4  # ln 2 / 4 is what two places leave, of four numbers
    settings = replace(system.settings, top=1.0)
    keys = jax.random.split(jax.random.key(1), 16)
    drawn = jax.jit(lambda: system.sample(state.params, asked(["a"] * 16), keys, settings))()
    away_N2 = np.linalg.norm(np.asarray(drawn)[:, None] - np.asarray(pairs[0])[None, :2], axis=-1)
    apart = float(np.linalg.norm(pairs[0][0] - pairs[0][1]))
    assert (away_N2.min(axis=1) < 0.1 * apart).mean() > 0.8
    assert set(away_N2.argmin(axis=1).tolist()) == {0, 1}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    source = WorldSource(World(num_entities=5, num_images=26), resolution=32)
    folder = tmp_path_factory.mktemp("ar_prior") / "records"
    write_records(source.items(), folder, source=source.name)
    return folder


def on(records, **data):
    return replace(AR_PRIOR, data=replace(AR_PRIOR.data, records=str(records), **data))


def test_what_it_knows_of_embeddings_is_fitted_to_the_records_that_are_learned_from(records, params, capsys):
    config = on(records, validation_share=0.2)
    feed, system = kinds.feed_of(config), kinds.system_of(config)
    assert isinstance(feed, Fits)
    begun = feed.fitted({"clip": params["clip"]})
    assert "3 of 8 components hold" in capsys.readouterr().out and begun["clip"] is params["clip"]
    shapes = jax.eval_shape(system.init, jax.random.key(0))["statistics"]
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in begun["statistics"].items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in shapes.items()
    }
    learned, _ = feed.parts
    z, w = jax.jit(system.pairs)(params, feed.reader(0)(learned))
    known = statistics_of(np.asarray(z, np.float64), np.asarray(w, np.float64), P)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), begun["statistics"], known)
    assert feed.fitted(begun) is begun  # of a run that starts from such a prior


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dims": 9}, r"dims is 9, but an embedding has 8 values \(clip\.width\)"),
        ({"fitted_on": 3}, r"fitted_on is 3: 3 components \(dims\) need more records"),
        ({"buckets": 1}, "buckets"),
        ({"tower": Tower(16, 0, 2, 32)}, "a prior needs a block at least"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        changed(AR_PRIOR, **settings)


def test_too_few_records_are_told_before_anything_is_read(records):
    config = on(records)
    number = len(kinds.feed_of(config).records)
    wide = changed(config, clip=replace(CLIP, width=number), dims=number)
    config = replace(wide, init=replace(config.init, weights="x"))
    with pytest.raises(UserError, match=f"there are {number} records to fit as many components to: take more records"):
        kinds.feed_of(config).settled()


def test_what_it_cannot_look_at_and_has_no_use_for_is_refused():
    feed, settings = kinds.feed_of(AR_PRIOR), AR_PRIOR.system.sampler
    for request, said in (
        (Request("a", (neighbour(1),)), "draws an embedding from the text alone"),
        (Request("a", guidance={"eta": 0.5}), "'eta' is no number of tiny_ar_prior's guidance: text_weight"),
    ):
        with pytest.raises(UserError, match=said):
            feed.check(request, settings)
    with pytest.raises(UserError, match=r"sampler\.num_steps: this model's sampler has no such setting"):
        settings.changed(num_steps=3)
    facts = sampler_facts(settings.changed(top=0.25, text_weight=2.0), 0, 1)
    assert facts == {"text weight": "2", "top": "0.25", "seed": "0", "images per prompt and column": "1"}
