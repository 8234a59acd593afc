"""A stage of DeepFloyd IF, read from a folder as diffusers writes it, draws what diffusers' pipelines draw.

Both run 10 steps of guided ancestral sampling with the learned variance, of networks at reduced width with random
weights, in float32, on the same noise: ours is handed to theirs wherever they draw any.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline
from diffusers.pipelines.deepfloyd_if import pipeline_if, pipeline_if_superresolution
from diffusers.schedulers import scheduling_ddpm

from reimagen_jax.diffusion import sampler
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.encoders.texts import Embedded
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.systems.pixels import to_model
from reimagen_jax.systems.reimagen import deepfloyd_pipeline
from reimagen_jax.systems.reimagen.condition import Inputs
from reimagen_jax.systems.reimagen.deepfloyd_pipeline import fresh_neighbour_attention, read_stage, with_neighbours
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.parity.deepfloyd import STAGE_1, STAGE_2, random_model
from tools.convert_weights import Convert

B, L, K, STEPS, GUIDANCE = 2, 7, 1, 10, 3.0
D = STAGE_1["encoder_hid_dim"]
SCHEDULER = {
    "variance_type": "learned_range",
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}
"""What diffusers' converter of IF's first stage sets; the second has sample_max_value 1."""


class FakeEncoder:
    """Stands for the T5, which has tests of its own: embeddings at random, of texts and of their padding."""

    width, max_tokens, fingerprint, tokenizer = D, L, "fake", None

    def encode(self, texts, *, padding="zero"):
        assert padding == "encoded", "IF's networks look at padding too"
        rows = [np.random.default_rng(len(text)).normal(size=(L, D)) for text in texts]
        mask_NL = np.arange(L) < 1
        return np.stack(rows).astype(np.float32), np.broadcast_to(mask_NL, (len(texts), L))

    def release(self):
        """As the real one."""


@pytest.fixture(scope="module", autouse=True)
def encoder():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deepfloyd_pipeline, "open_text_encoder", lambda settings: FakeEncoder())
        patch.setattr(deepfloyd_pipeline, "MAX_TOKENS", L)
        yield FakeEncoder()


def pipeline(stage, seed):
    parts = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "feature_extractor": None}
    parts |= {"watermarker": None, "requires_safety_checker": False}
    if stage is STAGE_1:
        return IFPipeline(unet=random_model(STAGE_1, seed), scheduler=DDPMScheduler(**SCHEDULER), **parts)
    return IFSuperResolutionPipeline(
        unet=random_model(STAGE_2, seed),
        scheduler=DDPMScheduler(**SCHEDULER | {"sample_max_value": 1.0}),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **parts,
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """(their pipeline, its folder, ours) by name."""
    made = {}
    for name, stage in (("base", STAGE_1), ("enlarging", STAGE_2)):
        folder = tmp_path_factory.mktemp(name)
        theirs = pipeline(stage, seed=3)
        theirs.save_pretrained(folder)
        made[name] = theirs, folder, read_stage(folder, name)
    return made


def noise_of(keys, shape, enlarging_to):
    """The noise that our sampler draws with these keys, in the order in which their pipelines ask for theirs."""
    given = []
    if enlarging_to:
        own = jax.vmap(lambda key: jax.random.fold_in(key, enlarging_to))(keys)
        keys, aug = jnp.moveaxis(jax.vmap(jax.random.split)(own), 1, 0)
        given = [jax.vmap(lambda key: jax.random.normal(key, shape))(aug)]
    start, _, step = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)

    def at(i):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(step)

    return [jax.vmap(lambda key: jax.random.normal(key, shape))(start), *given, *map(at, range(STEPS))]


def text():
    """Two prompts' embeddings, and those of the empty text for both."""
    embedding_BLD = np.random.default_rng(5).normal(size=(B, L, D)).astype(np.float32)
    return embedding_BLD, np.repeat(FakeEncoder().encode([""], padding="encoded")[0], B, axis=0)


def theirs(pipeline, noise, **inputs):
    """What their pipeline draws: [B, H, W, 3] in [-1, 1], not clipped."""
    queue = [torch.tensor(np.asarray(x).transpose(0, 3, 1, 2)) for x in noise]

    def next_noise(shape, **_):
        assert tuple(shape) == tuple(queue[0].shape)
        return queue.pop(0)

    embedding_BLD, empty_BLD = map(torch.tensor, text())
    pipeline.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline_if, pipeline_if_superresolution, scheduling_ddpm):
            patch.setattr(module, "randn_tensor", next_noise)
        drawn = pipeline(
            prompt_embeds=embedding_BLD,
            negative_prompt_embeds=empty_BLD,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="pt",
            **inputs,
        ).images
    return drawn.numpy().transpose(0, 2, 3, 1)


def ours(stage, keys, nbr_mask, low_res):
    """What our system draws of the same, as bytes and before they are bytes; neighbours are there, masked or not."""
    settings = dataclasses.replace(stage.config.system.sampler, num_steps=STEPS, spacing="leading", aug_level=0.25)
    system, side = ReImagen(stage.config), stage.config.system.resolution
    embedding_BLD, _ = text()
    texts = Embedded(jnp.asarray(embedding_BLD), jnp.ones((B, L), bool))
    nbr_texts = jax.tree.map(lambda x: x[:, None], texts)
    nbr_BKHWC = jnp.asarray(np.random.default_rng(6).integers(0, 256, (B, K, side, side, 3), np.uint8))
    numbers = (jnp.full(B, number) for number in (1.0, GUIDANCE, GUIDANCE))
    inputs = Inputs(texts, nbr_BKHWC, nbr_texts, jnp.full((B, K), nbr_mask), *numbers, low_res)

    kept, sample = [], sampler.sample

    def keeping(*args):
        kept.append(sample(*args))
        return kept[-1]

    @jax.jit
    def draw(params, inputs):
        return system.sample(params, inputs, keys, settings), kept.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "sample", keeping)
        return map(np.asarray, draw(stage.params, inputs))


@pytest.mark.parametrize("name", ["base", "enlarging"])
def test_ten_steps_of_a_converted_stage_are_ifs_own(stages, name):
    pipeline, _, stage = stages[name]
    side, keys = stage.config.system.resolution, image_keys(7, range(B))
    low_res, inputs = None, {}
    if name == "enlarging":
        low_res = jnp.asarray(np.random.default_rng(8).integers(0, 256, (B, side // 4, side // 4, 3), np.uint8))
        image = to_model(low_res)
        inputs = {"image": torch.tensor(np.asarray(image).transpose(0, 3, 1, 2)), "noise_level": 250}
    noise = noise_of(keys, (side, side, 3), side if name == "enlarging" else None)
    expected = np.clip(theirs(pipeline, noise, **inputs), -1.0, 1.0)
    as_bytes, drawn = ours(stage, keys, True, low_res)
    assert np.std(expected) > 0.3
    assert np.abs(drawn - expected).max() < 2e-3
    assert np.linalg.norm(drawn - expected) / np.linalg.norm(expected) < 1e-4
    assert np.abs(as_bytes - 127.5 * (expected + 1.0)).max() < 0.5 + 127.5 * 2e-3


def test_the_new_layers_are_the_identity_until_they_learn(stages):
    config = stages["base"][2].config.system.unet
    params = fresh_neighbour_attention(config, jax.random.key(0))
    assert params.keys() == {"neighbour_attention_level1"}
    for attention in params.values():
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(attention["out"]))
        assert np.any(attention["key_value"]["kernel"])


def test_a_converted_stage_has_exactly_the_parameters_of_its_experiment(stages):
    for _, _, stage in stages.values():
        expected = jax.eval_shape(ReImagen(stage.config).init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, stage.params) == jax.tree.map(jnp.shape, expected)


def test_neighbours_attend_where_they_are_asked_to(stages):
    config = stages["base"][2].config
    assert [level.neighbour_attention for level in config.system.unet.levels] == [False, True]
    both = with_neighbours(config, (16, 8))
    assert [level.neighbour_attention for level in both.system.unet.levels] == [True, True]
    assert not any(level.neighbour_attention for level in with_neighbours(config, ()).system.unet.levels)
    with pytest.raises(UserError, match="side \\[4\\]: it has 16, 8"):
        with_neighbours(config, (4,))


def test_what_is_not_a_stage_of_if_is_refused_naming_everything(stages, tmp_path):
    unet = dict(stages["enlarging"][0].unet.config)
    noising = {"beta_schedule": "linear"}
    with pytest.raises(UserError) as error:
        deepfloyd_pipeline.stage_config("x", unet, {"prediction_type": "v_prediction"}, noising)
    for part in ("prediction_type is 'v_prediction'", "variance_type is None", "noising_scheduler: beta_schedule is"):
        assert part in str(error.value)


def test_the_tool_writes_a_folder_of_weights_that_opens(stages, tmp_path, capsys):
    _, folder, stage = stages["enlarging"]
    Convert(folder, tmp_path / "out", name="enlarging").run()
    model = Model.open(tmp_path / "out")
    assert model.config == stage.config
    jax.tree.map(np.testing.assert_array_equal, model.params, stage.params)
    assert "16 x 16 pixels, neighbour attention at levels [1]" in capsys.readouterr().out
    Convert(folder, tmp_path / "plain", no_neighbours=True).run()
    assert not any(name.startswith("neighbour") for name in Model.open(tmp_path / "plain").params["unet"])
    with pytest.raises(UserError, match="contradict each other"):
        Convert(folder, tmp_path / "never", no_neighbours=True, neighbours_at=(8,)).run()


def test_pickles_are_refused(stages, tmp_path):
    pipeline, _, _ = stages["base"]
    pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(UserError, match="may run code"):
        read_stage(tmp_path / "pickled", "x")
