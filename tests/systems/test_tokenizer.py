"""The tokenizer of images: what its codes are, what it learns, what it is asked."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reimagen_jax import sharding
from reimagen_jax.config import to_json
from reimagen_jax.errors import UserError
from reimagen_jax.inference.pipeline import Stage
from reimagen_jax.preflight import programs
from reimagen_jax.systems import kinds
from reimagen_jax.systems.kinds import from_json
from reimagen_jax.systems.mage import tokenizer
from reimagen_jax.systems.request import Edit, Request
from reimagen_jax.systems.unclip.arrays import ImageBatch
from tests.mage import VQ, flags, trained
from tests.unclip import changed, neighbour

BATCH = ImageBatch(jnp.asarray(neighbour(0).image)[None].repeat(4, axis=0))


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(kinds.system_of(VQ).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def test_settings_come_back_from_json():
    assert from_json(to_json(VQ)) == VQ


def test_it_takes_and_gives_what_its_specs_say(params):
    system, feed = kinds.system_of(VQ), kinds.feed_of(VQ)
    requests, spec = [Request(start=neighbour(i).image) for i in range(2)], system.inputs_spec(2, system.settings)
    given = feed.collate(requests, system.settings).image_BHWC
    assert (given.shape, given.dtype) == (spec.image_BHWC.shape, spec.image_BHWC.dtype)
    for handed_on, dtype in (("bytes", "uint8"), ("floats", "float32")):
        settings = replace(system.settings, handed_on=handed_on)
        drawn = jax.eval_shape(lambda p, i, s=settings: system.sample(p, i, jax.random.split(jax.random.key(0)), s),
                               params, spec)  # fmt: skip
        assert (drawn.shape, str(drawn.dtype)) == ((2, 8, 8, 3), dtype)


def test_its_programs_lower_for_a_mesh():
    """Of which preflight makes its tables."""
    mesh = sharding.make_mesh(4)
    for program in (programs.train_program(VQ, mesh), programs.sampler_program(VQ, mesh, images=8)):
        assert program.jitted.lower(*program.arguments).as_text()
        assert program.model_flops > 0 and program.images == 8


def test_the_nearest_code_is_taken_and_the_first_of_equals(params):
    net, tree = kinds.system_of(VQ).net, params["vq"]
    tree = {**tree, "codes": tree["codes"].at[7].set(tree["codes"][3])}
    z = jax.random.normal(jax.random.key(0), (50, 6))
    token = net.apply({"params": tree}, z, method="tokens")
    distance = np.linalg.norm(np.asarray(z)[:, None] - np.asarray(tree["codes"])[None], axis=-1)
    np.testing.assert_array_equal(token, distance.argmin(axis=1))
    assert 3 in token and 7 not in token


def test_the_encoder_learns_as_if_codes_were_what_it_says(params):
    """Of the error alone, whose gradient passes the codes by: these have none."""
    system = kinds.system_of(changed(VQ, codebook=0.0, commitment=0.0, entropy=0.0))
    grads = jax.jit(jax.grad(lambda p: system.loss(p, BATCH, jax.random.key(0))[0]))(params)["vq"]
    assert not jnp.any(grads.pop("codes"))
    assert all(jnp.any(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if "kernel" in str(path))


def test_entropy_is_least_where_tokens_are_sure_and_codes_used_alike():
    sure, unsure = jnp.full((8, 8), 1e3) * (1.0 - jnp.eye(8)), jnp.zeros((8, 8))
    same = jnp.broadcast_to(sure[:1], (8, 8))
    least, one, all_at_once = (float(tokenizer.entropy(each)) for each in (sure, same, unsure))
    assert least == pytest.approx(-np.log(8), abs=1e-4)
    assert one == pytest.approx(0.0, abs=1e-4) and all_at_once == pytest.approx(0.0, abs=1e-4)
    assert float(tokenizer.used(jnp.arange(8, dtype=jnp.int32), 12)) == pytest.approx(8.0, rel=1e-4)


def test_it_learns_to_put_images_together_again():
    system, learned = kinds.system_of(VQ), trained(VQ, ImageBatch(flags()), 150)["vq"]
    measured = jax.jit(system.measure)({"vq": learned}, ImageBatch(flags()), jax.random.key(0))
    psnr, used = (float(measured[name][0] / measured[name][1]) for name in ("psnr", "codes_used"))
    assert psnr > 20 and used > 1.5
    (again,) = Stage(VQ, {"vq": learned}, batch_size=1).draw([Request(start=np.asarray(flags()[2]))])
    assert np.abs(again.astype(float) - np.asarray(flags()[2])).mean() < 25


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(), "needs one to start from"),
        (Request(start=neighbour(0, side=9).image), r"uint8 \[8, 8, 3\], and needs one"),
        (Request(start=neighbour(0).image, edit=Edit(neighbour(0).image)), "draws on no picture"),
        (Request(start=neighbour(0).image, guidance={"eta": 0.5}), "'eta' is no number of tiny_vq's guidance: it has"),
    ],
)
def test_what_cannot_be_put_together_again_is_refused(request_, said):
    with pytest.raises(UserError, match=said):
        kinds.feed_of(VQ).check(request_, VQ.system.sampler)


def test_settings_that_contradict_each_other_are_refused():
    for made, said in (
        (lambda: changed(VQ, resolution=9), "resolution 9 is not a multiple of 2"),
        (lambda: changed(VQ, l1=0.0, l2=0.0), "l1 and l2 are both 0"),
        (
            lambda: changed(VQ, vq=replace(VQ.system.vq, groups=3)),
            r"vq\.widths\[0\] 8 is not a multiple of vq\.groups 3",
        ),
        (lambda: changed(VQ, vq=replace(VQ.system.vq, widths=())), r"vq\.widths is empty"),
    ):
        with pytest.raises(UserError, match=said):
            made()
