"""Texts are read once a sample: that changes no prediction, and no step projects a text any more."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax.diffusion import sampler
from reimagen_jax.encoders.settings import FrozenTextConfig
from reimagen_jax.encoders.texts import Embedded
from reimagen_jax.nets.settings import Level
from reimagen_jax.systems.reimagen.condition import Inputs, drop
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.nets.draws import draw_params
from tests.tiny import TINY, TINY_SR, changed

B, L, D, W = 3, 5, 40, 24
"""D of the text, W of the projected text: no other array of these networks has an axis as long."""
PLAIN = replace(TINY.system.unet, groups=4)
IF = replace(PLAIN, text_width=W, text_pooling="attention", text_norm="group")
ALONE = replace(PLAIN, levels=(Level(8, 1), Level(16, 1, text_attention=True, neighbour_attention=True)))
CASES = [
    ("masked", PLAIN, TINY, False),
    ("masked", IF, TINY, True),
    ("masked", replace(ALONE, text_norm="group", remat="blocks"), TINY, False),
    ("masked", replace(ALONE, efficient=True), TINY_SR, True),
    ("kept", IF, TINY, False),
    ("kept", replace(IF, efficient=True, text_pooling="score", dtype="bfloat16"), TINY_SR, True),
]
"""Padding, network, stage, and whether there are negative prompts."""


def system_of(padding, unet, config):
    text = replace(TINY.system.text, frozen=FrozenTextConfig(width=D, max_tokens=L, padding=padding))
    return ReImagen(changed(config, unet=unet, text=text))


def inputs(system, *, negative):
    """Prompts of 5, 2 and no tokens; negative ones of none, 3 and 1."""
    rng = np.random.default_rng(0)

    def texts(*lengths):
        text_BLD = rng.normal(size=(len(lengths), L, D)).astype(np.float32)
        return Embedded(jnp.asarray(text_BLD), jnp.asarray(np.arange(L) < np.asarray(lengths)[:, None]))

    R, stage = system.model.resolution, system.model.super_resolution
    low = None if stage is None else jnp.asarray(rng.integers(0, 256, (B, R // 2, R // 2, 3), np.uint8))
    neighbours = jnp.zeros((B, 0, R, R, 3), jnp.uint8), jax.tree.map(lambda leaf: leaf[:, None][:, :0], texts(4, 5, 1))
    numbers = (jnp.full(B, number, jnp.float32) for number in (0.5, 3.0, 2.0))
    negative_BL = texts(0, 3, 1) if negative else None
    mask = jnp.zeros((B, 0), bool)
    return Inputs(texts(5, 2, 0), *neighbours, mask, *numbers, low_res_BHWC=low, negative_BL=negative_BL)


@pytest.mark.parametrize(("padding", "unet", "config", "negative"), CASES)
def test_a_text_read_once_gives_the_predictions_of_one_read_at_every_step(padding, unet, config, negative):
    system = system_of(padding, unet, config)
    params = draw_params(lambda: system.init(jax.random.key(0)), seed=0)
    told = inputs(system, negative=negative)

    @jax.jit
    def predictions(params, told, text_B):
        sampling = system.sampling(params, told, sampler.image_keys(0, range(B)), system.settings)
        read, plain = sampling.condition, sampling.condition.replace(told=None, empty_told=None)
        t_B = jnp.full(B, 0.4)
        return [sampling.denoise(sampling.x_T, t_B, drop(each, text_B, ~text_B)) for each in (read, plain)]

    found = []
    for flags in ([False] * B, [True] * B, [True, False, True]):
        with jax.numpy_dtype_promotion("standard" if unet.dtype == "bfloat16" else "strict"):
            read, plain = predictions(params, told, jnp.asarray(flags))
        np.testing.assert_allclose(read, plain, atol=1e-5)
        found.append(read)
    assert np.abs(found[0] - found[1])[:2].max() > 1e-2, "a dropped text is another"


def inside(jaxpr):
    """The jaxprs of an equation's calls and loops."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield equation, value


def sides(jaxpr):
    """All sides of the factors of all matrix products in it, and in what it calls."""
    factors = [v.aval.shape for e in jaxpr.eqns if e.primitive.name == "dot_general" for v in e.invars]
    return {side for shape in factors for side in shape}.union(*(sides(inner) for _, inner in inside(jaxpr)))


def steps_of(jaxpr, length):
    """The bodies of the loops of so many rounds."""
    for equation, inner in inside(jaxpr):
        if equation.primitive.name == "scan" and equation.params["length"] == length:
            yield inner
        yield from steps_of(inner, length)


@pytest.mark.parametrize(("padding", "unet", "config", "negative"), CASES)
def test_no_step_projects_or_pools_a_text(padding, unet, config, negative):
    system, T = system_of(padding, unet, config), 7
    settings = replace(system.settings, num_steps=T, guidance="compositional", solver="ddim")
    params = jax.eval_shape(system.init, jax.random.key(0))
    told = inputs(system, negative=negative)

    def body(read):
        def draw(params):
            sampling = system.sampling(params, told, sampler.image_keys(0, range(B)), settings)
            condition = sampling.condition if read else sampling.condition.replace(told=None, empty_told=None)
            return sampler.sample(*sampling._replace(condition=condition))

        with jax.numpy_dtype_promotion("standard" if unet.dtype == "bfloat16" else "strict"):
            (body,) = steps_of(jax.make_jaxpr(draw)(params).jaxpr, T)
        return sides(body)

    assert not {D, W} & body(read=True)
    assert D in body(read=False)


def test_a_network_keeps_what_it_reads_only_where_it_is_asked_to():
    system = system_of("masked", IF, TINY)
    told, unet, x = inputs(system, negative=False), system.unet, jnp.zeros((B, 16, 16, 3))

    def init():
        condition = system.condition({}, told)
        assert condition.told is None and condition.empty_told is None  # as in training
        return unet.init(jax.random.key(0), x, x[:, 0, 0, 0], condition)

    assert jax.eval_shape(init).keys() == {"params"}
