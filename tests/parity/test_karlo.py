"""karlo, read from folders as diffusers writes them, predicts and draws what diffusers' pipelines do.

Networks at reduced width with random weights, in float32; whole pipelines, guided, on the same noise: ours is handed to
theirs wherever they draw any.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.schedulers import scheduling_unclip
from PIL import Image

from reimagen_jax.diffusion import schedule, solvers
from reimagen_jax.diffusion.base import Prediction
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.diffusion.spacing import chain_steps
from reimagen_jax.encoders.settings import JointConfig, TextTowerConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.nets.settings import Tower
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.unclip import karlo, prior
from reimagen_jax.systems.unclip.arrays import DecoderInputs, PriorInputs, UpsamplerInputs
from reimagen_jax.systems.unclip.decoder import Decoder
from reimagen_jax.systems.unclip.feed import UpsamplerFeed
from reimagen_jax.systems.unclip.prior import Prior
from reimagen_jax.systems.unclip.upsampler import Upsampler
from tests.parity.huggingface import relative_error
from tests.parity.karlo import (
    LARGE,
    PUBLISHED_DECODER,
    PUBLISHED_SUPER_RES,
    PUBLISHED_TEXT_PROJ,
    SCHEDULERS,
    SIDE,
    D,
    L,
    exact,
    pipelines,
    random_parts,
)
from tools.convert_weights import Convert

B, STEPS, SCALES = 2, {"prior": 4, "decoder": 5, "upsampler": 3}, {"prior": 3.0, "decoder": 2.0}
PROMPTS = ["a fox", "two small dogs on a very long street in the rain of november"]
TIMESTEPS = np.array([999, 412])
SYSTEMS = {"prior": Prior, "decoder": Decoder, "upsampler": Upsampler}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return random_parts(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def folders(parts, tmp_path_factory):
    """Text to image, and variations, as published."""
    folders = tmp_path_factory.mktemp("karlo"), tmp_path_factory.mktemp("variations")
    for pipeline, folder in zip(pipelines(parts), folders, strict=True):
        pipeline.save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def models(folders, tmp_path_factory):
    """Converted and opened: by part."""
    out = tmp_path_factory.mktemp("converted") / "karlo"
    Convert(folders[0], out, name="karlo", image_encoder=folders[1] / "image_encoder").run()
    return {part: Model.open(out / part) for part in ("prior", "decoder", "upsampler")}


def system_of(models, part):
    return SYSTEMS[part](models[part].config), models[part].params


def channels_first(x):
    return torch.tensor(np.array(x).transpose(0, 3, 1, 2))


def channels_last(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def tokens(models, texts):
    return jnp.asarray(system_of(models, "decoder")[0].clip.tokenizer().encode(texts))


@torch.no_grad()
def their_texts(parts, texts):
    told = parts["tokenizer"](texts, padding="max_length", max_length=L, truncation=True, return_tensors="pt")
    out = parts["text_encoder"](told.input_ids)
    return out.text_embeds, out.last_hidden_state, told.attention_mask.bool()


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def close(ours, theirs, atol=1e-4):
    assert np.std(theirs) > 0.1
    assert relative_error(ours, theirs) < 2e-5
    np.testing.assert_allclose(ours, theirs, atol=atol)


@torch.no_grad()
def test_the_prior_equals_theirs(parts, models):
    system, params = system_of(models, "prior")
    vector, states, mask = their_texts(parts, PROMPTS)
    assert not mask.all()
    z = normal(0, B, D)
    theirs = parts["prior"](torch.tensor(z), torch.tensor(TIMESTEPS), vector, states, mask)
    theirs = theirs.predicted_image_embedding.numpy()

    @jax.jit
    def ours(params, z, tokens_BL):
        text = system.clip.texts(params["clip"], tokens_BL)
        t_B = jnp.asarray(TIMESTEPS / 1000.0, jnp.float32)
        return system.denoiser(params)(z, t_B, prior.Told(text, text)), system.unscaled(params, z)

    predicted, unscaled = ours(params, jnp.asarray(z), tokens(models, PROMPTS))
    close(predicted, theirs)
    close(unscaled, parts["prior"].post_process_latents(torch.tensor(z)).numpy())


@torch.no_grad()
@pytest.mark.parametrize("dropped", [False, True])
def test_projections_and_decoder_equal_theirs(parts, models, dropped):
    system, params = system_of(models, "decoder")
    z, x = normal(1, B, D), normal(2, B, SIDE, SIDE, 3)
    texts = [""] * B if dropped else PROMPTS
    vector, states, mask = their_texts(parts, texts)
    learned = parts["text_proj"].learned_classifier_free_guidance_embeddings.expand(B, -1)
    told, added = parts["text_proj"](
        image_embeddings=learned if dropped else torch.tensor(z),
        prompt_embeds=vector,
        text_encoder_hidden_states=states,
        do_classifier_free_guidance=False,
    )
    mask = torch.nn.functional.pad(mask, (told.shape[1] - L, 0), value=True)
    theirs = parts["decoder"](
        channels_first(x), torch.tensor(TIMESTEPS), told, class_labels=added, attention_mask=mask
    ).sample

    @jax.jit
    def ours(params, x, z, tokens_BL):
        condition = system.condition(params, tokens_BL, z, jnp.full(B, dropped))
        t_B = jnp.asarray(TIMESTEPS / 1000.0, jnp.float32)
        return condition, system.unet.apply({"params": params["unet"]}, x, t_B, condition)

    condition, predicted = ours(params, jnp.asarray(x), jnp.asarray(z), tokens(models, texts))
    close(condition.embedding_BD, added.numpy())
    close(condition.extra_BMD, told[:, : told.shape[1] - L].numpy())
    kept = np.asarray(condition.text_mask_BL)
    np.testing.assert_array_equal(kept, mask[:, -L:])
    close(np.asarray(condition.text_BLD)[kept], told[:, -L:].numpy()[kept])
    close(predicted, channels_last(theirs))


@torch.no_grad()
def test_both_networks_of_super_resolution_equal_theirs(parts, models):
    system, params = system_of(models, "upsampler")
    x, low = (normal(seed, B, LARGE, LARGE, 3) for seed in (3, 4))
    given = torch.cat([channels_first(x), channels_first(low)], dim=1)
    run = jax.jit(lambda params, x, t, low: system.unet.apply({"params": params}, x, t, Condition(low_res_BHWC=low)))
    for where, name in (("unet", "super_res_first"), ("unet_last", "super_res_last")):
        ours = run(params[where], jnp.asarray(x), jnp.asarray(TIMESTEPS / 1000.0, jnp.float32), jnp.asarray(low))
        close(ours, channels_last(parts[name](given, torch.tensor(TIMESTEPS)).sample))


@torch.no_grad()
def test_clip_gives_their_embeddings_of_texts_and_images(parts, models):
    """Not of length 1."""
    system, params = system_of(models, "decoder")
    images = np.random.default_rng(5).integers(0, 256, (B, SIDE, SIDE, 3), np.uint8)
    pixels = parts["feature_extractor"]([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
    theirs = parts["image_encoder"](pixels).image_embeds.numpy()
    close(jax.jit(system.embed)(params, jnp.asarray(images)), theirs)
    assert np.abs(np.linalg.norm(theirs, axis=1) - 1.0).min() > 0.1
    reading = jax.jit(system.clip.texts)(params["clip"], tokens(models, PROMPTS))
    close(reading.vector_BD, their_texts(parts, PROMPTS)[0].numpy())


@pytest.mark.parametrize("n", [2, 3, 7, 25, 50, 99, 100, 1000])
def test_the_steps_visited_are_theirs(n):
    scheduler = UnCLIPScheduler()
    scheduler.set_timesteps(n)
    np.testing.assert_array_equal(chain_steps(n, 1000, "linspace"), scheduler.timesteps.numpy())
    if n == 7:
        assert scheduler.timesteps.tolist() == [999, 832, 666, 500, 333, 166, 0]


@pytest.mark.parametrize("variance", ["fixed_small_log", "learned_range"])
@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_each_step_is_theirs(variance, prediction, monkeypatch):
    process = DiffusionConfig(
        schedule="cosine_chain", learned_variance=variance == "learned_range", logsnr_min=-20.0, logsnr_max=30.0
    )
    scheduler = UnCLIPScheduler(
        variance_type=variance, prediction_type=prediction, clip_sample_range=5.0 if prediction == "sample" else 1.0
    )
    exact(scheduler).set_timesteps(25)
    limit, times = scheduler.config.clip_sample_range, schedule.times(25, process, "linspace")
    rng, solver = np.random.default_rng(0), solvers.ddpm(process)

    def predict(x, t, told):
        output, fraction = told
        alpha, sigma = schedule.alpha_sigma(t, process)
        x0 = output if prediction == "sample" else (x - sigma * output) / alpha
        return Prediction(jnp.clip(x0, -limit, limit), x, fraction if variance == "learned_range" else None)

    @jax.jit
    def step(x, t, s, noise, told):
        return solver.step(lambda x, t: predict(x, t, told), x, solver.init(x), t, s, noise)[0]

    steps = [int(t) for t in scheduler.timesteps]
    for i, t in enumerate(steps):
        x, output, v, noise = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(4))
        output = 4.0 * output if prediction == "sample" else output
        monkeypatch.setattr(scheduling_unclip, "randn_tensor", lambda *args, noise=noise, **_: torch.tensor(noise))
        told = np.concatenate([output, v], axis=1) if variance == "learned_range" else output
        before = steps[i + 1] if i + 1 < len(steps) else None
        theirs = scheduler.step(torch.tensor(told), t, torch.tensor(x), prev_timestep=before).prev_sample
        ours = step(
            *map(jnp.asarray, (x, times[i], times[i + 1], noise)), (jnp.asarray(output), jnp.asarray(0.5 * (v + 1)))
        )
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5, rtol=1e-5, err_msg=f"step {t}")


def noise_of(keys, shape, steps):
    """What our sampler draws with these keys: x_T, and the noise of each step."""
    start, _, step = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)

    def at(i):
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(step)

    return [jax.vmap(lambda key: jax.random.normal(key, shape))(start), *map(at, range(steps))]


def keys_of(part):
    """The keys that a stage derives from an image's."""
    keys = image_keys(7, range(B))
    told = {"prior": prior.KEYS, "upsampler": LARGE}
    return jax.vmap(lambda key: jax.random.fold_in(key, told[part]))(keys) if part in told else keys


@pytest.fixture(scope="module")
def draw(models):
    """(part, inputs) -> what it draws: an embedding, or images in [-1, 1]; compiled once."""
    keys = image_keys(7, range(B))

    def jitted(part):
        system, params = system_of(models, part)
        settings = dataclasses.replace(system.settings, num_steps=STEPS[part])
        settings = settings if part == "prior" else dataclasses.replace(settings, handed_on="floats")
        run = jax.jit(lambda params, inputs: system.sample(params, inputs, keys, settings))
        return lambda inputs: run(params, inputs)

    by_part = {part: jitted(part) for part in SYSTEMS}
    return lambda part, inputs: by_part[part](inputs)


def handed_noise(monkeypatch, *queues):
    """Lets their schedulers draw ours, in the order of the stages; they draw none for the last step."""
    queue = [torch.tensor(np.array(x)) for _, *steps in queues for x in steps[:-1]]

    def next_noise(shape, **_):
        x = queue.pop(0)
        x = x if x.ndim == 2 else x.permute(0, 3, 1, 2)
        assert tuple(shape) == tuple(x.shape)
        return x

    monkeypatch.setattr(scheduling_unclip, "randn_tensor", next_noise)
    return queue


def noises():
    shapes = {"prior": (D,), "decoder": (SIDE, SIDE, 3), "upsampler": (LARGE, LARGE, 3)}
    return {part: noise_of(keys_of(part), shape, STEPS[part]) for part, shape in shapes.items()}


def theirs_drawn(pipeline, noise, *told, **more):
    """Images in [-1, 1]."""
    images = pipeline(
        *told,
        decoder_num_inference_steps=STEPS["decoder"],
        super_res_num_inference_steps=STEPS["upsampler"],
        decoder_latents=channels_first(noise["decoder"][0]),
        super_res_latents=channels_first(noise["upsampler"][0]),
        decoder_guidance_scale=SCALES["decoder"],
        output_type="np",
        **more,
    ).images
    assert np.std(images) > 0.1
    return 2.0 * images - 1.0


def decoder_inputs(models, texts, z_BD=None, images=None):
    """What our decoder draws from: embeddings, or images in their place."""
    room = models["decoder"].config.data.num_neighbours
    nbr_BKHWC, weight_BK = jnp.zeros((B, room, SIDE, SIDE, 3), jnp.uint8), jnp.zeros((B, room))
    if images is not None:
        nbr_BKHWC, weight_BK = nbr_BKHWC.at[:, 0].set(images), weight_BK.at[:, 0].set(1.0)
    said, nothing, guided = tokens(models, texts), tokens(models, [""] * B), jnp.full(B, SCALES["decoder"])
    given_B, z_BD = jnp.full(B, z_BD is not None), jnp.zeros((B, D)) if z_BD is None else z_BD
    return DecoderInputs(said, nothing, guided, z_BD, given_B, nbr_BKHWC, weight_BK)


def test_the_whole_pipeline_draws_what_theirs_draws(parts, models, draw, monkeypatch):
    noise = noises()
    queue = handed_noise(monkeypatch, *noise.values())
    expected = theirs_drawn(
        pipelines(parts)[0],
        noise,
        PROMPTS,
        prior_num_inference_steps=STEPS["prior"],
        prior_latents=torch.tensor(np.array(noise["prior"][0])),
        prior_guidance_scale=SCALES["prior"],
    )
    assert not queue
    said, nothing = tokens(models, PROMPTS), tokens(models, [""] * B)
    z = draw("prior", PriorInputs(said, nothing, jnp.full(B, SCALES["prior"])))
    small = draw("decoder", decoder_inputs(models, PROMPTS, z))
    large = draw("upsampler", UpsamplerInputs(small))
    assert relative_error(large, expected) < 1e-4
    np.testing.assert_allclose(large, expected, atol=2e-3)


def test_variations_of_an_image_are_theirs(parts, models, draw, monkeypatch):
    noise = {part: queue for part, queue in noises().items() if part != "prior"}
    queue = handed_noise(monkeypatch, *noise.values())
    images = np.random.default_rng(6).integers(0, 256, (B, SIDE, SIDE, 3), np.uint8)
    expected = theirs_drawn(pipelines(parts)[1], noise, [Image.fromarray(image) for image in images])
    assert not queue
    small = draw("decoder", decoder_inputs(models, [""] * B, images=images))
    assert relative_error(draw("upsampler", UpsamplerInputs(small)), expected) < 1e-4


def test_what_is_converted_is_whole_and_names_its_licence(models, folders, tmp_path, capsys):
    for part, model in models.items():
        expected = jax.eval_shape(SYSTEMS[part](model.config).init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(jnp.shape, expected)
        assert "license: creativeml-openrail-m" in (model.path / "README.md").read_text()
    Convert(folders[1], tmp_path / "variations").run()
    assert sorted(folder.name for folder in (tmp_path / "variations").iterdir()) == ["decoder", "upsampler"]
    assert "under CreativeML Open RAIL-M" in (tmp_path / "variations" / "decoder" / "README.md").read_text()
    assert "CreativeML Open RAIL-M" in capsys.readouterr().out
    decoder = Model.open(tmp_path / "variations" / "decoder")
    jax.tree.map(np.testing.assert_array_equal, decoder.params["unet"], models["decoder"].params["unet"])
    with pytest.raises(UserError, match="--no-neighbours: of a stage of DeepFloyd IF"):
        Convert(folders[0], tmp_path / "never", no_neighbours=True).run()
    with pytest.raises(UserError, match="already exists"):
        Convert(folders[1], tmp_path / "variations").run()


def test_published_sizes_have_as_many_parameters(models):
    """Nothing of that size is made, here or there."""
    tower, schedulers = Tower(768, 1, 12, 3072), {name: dict(SCHEDULERS[name]) for name in SCHEDULERS}
    clip = JointConfig(768, TextTowerConfig(tower, 49408, 77), None, tokens="published", end=49407, normalised=False)
    configs = {
        "prior": karlo.prior_config({}, schedulers["prior_scheduler"], clip),
        "decoder": karlo.decoder_config(PUBLISHED_DECODER, PUBLISHED_TEXT_PROJ, schedulers["decoder_scheduler"], clip),
        "upsampler": karlo.upsampler_config(
            PUBLISHED_SUPER_RES, PUBLISHED_SUPER_RES, schedulers["super_res_scheduler"]
        ),
    }
    with torch.device("meta"):
        made = {
            "prior": [PriorTransformer()],
            "decoder": [UNet2DConditionModel(**PUBLISHED_DECODER), UnCLIPTextProjModel(**PUBLISHED_TEXT_PROJ)],
            "upsampler": [UNet2DModel(**PUBLISHED_SUPER_RES)] * 2,
        }
    for part, config in configs.items():
        system = SYSTEMS[part](dataclasses.replace(models[part].config, system=config))
        params = jax.eval_shape(system.init, jax.random.key(0))
        ours = sum(leaf.size for leaf in jax.tree.leaves({**params, "clip": {}}))
        assert ours == sum(theirs.num_parameters() for theirs in made[part]), part


def test_the_network_of_the_last_step_is_not_trained(models):
    with pytest.raises(UserError, match="a network of its own for the last step, which is not trained here"):
        UpsamplerFeed(models["upsampler"].config).settled()


def test_the_last_step_is_taken_by_its_own_network(models):
    system, params = system_of(models, "upsampler")
    x, low = (jnp.asarray(normal(seed, 1, SIDE, SIDE, 3)) for seed in (8, 9))
    last = jnp.float32(0.1)

    @jax.jit
    def predictions(params, t_B):
        condition = Condition(low_res_BHWC=low)
        one, other = (system.denoiser({"unet": params[name]})(x, t_B, condition) for name in ("unet", "unet_last"))
        return system.denoiser(params, last)(x, t_B, condition), one, other

    for t, later in ((0.1, True), (0.0, True), (0.2, False)):
        ours, one, other = predictions(params, jnp.full(1, t, jnp.float32))
        np.testing.assert_allclose(ours, other if later else one, atol=1e-5)
        assert np.abs(one - other).max() > 0.1


READERS = {
    "prior": (karlo.prior_config, ("prior", "prior_scheduler"), True),
    "decoder": (karlo.decoder_config, ("decoder", "text_proj", "decoder_scheduler"), True),
    "super-resolution": (
        karlo.upsampler_config,
        ("super_res_first", "super_res_last", "super_res_scheduler"),
        False,
    ),
}


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("prior", {"added_emb_type": None}, "not karlo's prior: added_emb_type is None, not 'prd'"),
        ("prior", {"num_embeddings": 5, "num_layers": 0}, "num_layers is 0.*num_embeddings is 5, but CLIP's texts"),
        ("prior_scheduler", {"prediction_type": "epsilon"}, "scheduler: prediction_type is 'epsilon', not 'sample'"),
        ("prior_scheduler", {"clip_sample_range": "wide"}, "clip_sample_range is 'wide', not a number"),
        ("decoder", {"act_fn": "gelu", "class_embed_type": None}, "act_fn is 'gelu'.*class_embed_type is None"),
        ("decoder", {"sample_size": 17}, "sample_size is 17: write the side of its images there, a multiple of 2"),
        ("text_proj", {"cross_attention_dim": 47}, "text_proj: cross_attention_dim is 47, not 48"),
        ("decoder_scheduler", {"clip_sample_range": 2.0}, "clip_sample_range is 2.0, not 1.0"),
        ("super_res_first", {"norm_eps": 1e-6}, "norm_eps is 1e-06 in super_res_first, 1e-05 in super_res_last"),
        ("super_res_last", {"add_attention": True}, "not karlo's super-resolution: add_attention is True, not False"),
        ("super_res_scheduler", {"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
    ],
)
def test_what_is_not_karlos_is_refused_naming_it(parts, models, part, changes, said):
    for read, names, reads_clip in READERS.values():
        if part in names:
            told = [dict(parts[name].config) | (changes if name == part else {}) for name in names]
            clip = [models["prior"].config.system.clip] if reads_clip else []
            with pytest.raises(UserError, match=said):
                read(*told, *clip)


def test_weights_that_do_not_fit_are_named_with_their_part(parts, models):
    clip = models["prior"].config.system.clip
    config = karlo.prior_config(
        dict(parts["prior"].config) | {"num_layers": 1}, dict(parts["prior_scheduler"].config), clip
    )
    system = Prior(dataclasses.replace(models["prior"].config, system=config))
    state = {name: tensor.numpy() for name, tensor in parts["prior"].state_dict().items()}
    state.pop("prd_embedding")
    with pytest.raises(
        UserError, match=r"prior: the weights do not fit.*prd_embedding is missing; .*blocks.1.*unexpected"
    ):
        karlo.prior_params(state, system)
