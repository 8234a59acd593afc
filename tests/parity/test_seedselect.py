"""Loss, gradient and five updates of SeedSelect equal those of PyTorch's autograd, in double precision.

Theirs goes through diffusers' DDIM on Stable Diffusion's chain (20 steps, offset 1, the last alpha that of the first
step), with guidance of 7.5, and through PyTorch's Adam: once as the published code adds up its losses, once as the
paper does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from diffusers import DDIMScheduler

from reimagen_jax.diffusion import guidance, sampler
from reimagen_jax.diffusion.base import Solver
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.systems.seedselect.losses import Goal
from reimagen_jax.systems.seedselect.search import Objective, optimizer_of, search
from reimagen_jax.systems.seedselect.settings import CODE, PAPER

B, SIDE, D, WIDTH, STEPS, GUIDANCE, UPDATES = 2, 3, 27, 5, 20, 7.5, 5
SHAPE = (B, SIDE, SIDE, 3)


def scheduler() -> DDIMScheduler:
    made = DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    made.alphas_cumprod = made.alphas_cumprod.double()
    made.final_alpha_cumprod = made.alphas_cumprod[0]
    made.set_timesteps(STEPS)
    return made


def numbers():
    """A network eps = 2 tanh(W x + u t + prompt / 2), an encoder tanh(M x), references, a noise."""
    rng = np.random.default_rng(0)
    parts = {"W": 0.2 * rng.normal(size=(D, D)), "u": rng.normal(size=D), "prompt": rng.normal(size=D)}
    parts |= {
        "M": rng.normal(size=(D, WIDTH)),
        "reference": rng.uniform(-1, 1, (B, 3, D)),
        "x_T": rng.normal(size=(B, D)),
    }
    return parts


@functools.cache
def theirs(form):
    """Losses, gradients and noises of each update, by PyTorch."""
    n = {name: torch.from_numpy(value) for name, value in numbers().items()}
    of = torch.nn.functional
    encode = lambda x: torch.tanh(x @ n["M"])  # noqa: E731
    mu_v, mu_z = encode(n["reference"]).mean(dim=1), n["reference"].mean(dim=1)
    x_T = n["x_T"].clone().requires_grad_()
    optimizer = torch.optim.AdamW([x_T], lr=0.1) if form == "code" else torch.optim.Adam([x_T], lr=0.1)
    rows = []
    for i in range(UPDATES):
        if form == "code" and i == 3:
            optimizer.param_groups[0]["lr"] /= 10
        ddim, x, noisy, predicted = scheduler(), x_T, [], []
        for t in ddim.timesteps:
            x_t = x @ n["W"] + n["u"] * t / 1000
            plain, told = 2 * torch.tanh(x_t), 2 * torch.tanh(x_t + 0.5 * n["prompt"])
            out = ddim.step(plain + GUIDANCE * (told - plain), t, x, eta=0.0)
            x = out.prev_sample
            noisy.append(x)
            predicted.append(out.pred_original_sample)
        if form == "code":
            images = [2 * (image / 2 + 0.5).clamp(0, 1) - 1 for image in noisy[-3:]]
            far = [1 - of.cosine_similarity(encode(image), mu_v) for image in images]
            loss = 10 * (0.05 * far[0] + 0.25 * far[1] + 0.7 * far[2]) + of.mse_loss(x, mu_z, reduction="none").mean(1)
        else:
            far = [torch.linalg.vector_norm(encode(image.clamp(-1, 1)) - mu_v, dim=1) for image in predicted[-2:]]
            loss = 0.5 * sum(far) + 0.5 * torch.linalg.vector_norm(x - mu_z, dim=1)
        optimizer.zero_grad()
        loss.sum().backward()
        rows.append((loss.detach().numpy(), x_T.grad.numpy().copy()))
        optimizer.step()
        rows[-1] += (x_T.detach().numpy().copy(),)
    return list(zip(*rows, strict=True))


def ours(form, loop):
    """The objective, and what it is called with."""
    n = {name: jnp.asarray(value) for name, value in numbers().items()}
    ddim = scheduler()
    abar = jnp.asarray(ddim.alphas_cumprod.numpy())
    at = lambda t: jnp.where(t < 0, abar[0], abar[jnp.round(1000 * t).astype(int)])  # noqa: E731

    def step(predict, x, carry, t, s, noise):
        x0 = predict(x, t).x0
        eps = (x - jnp.sqrt(at(t)) * x0) / jnp.sqrt(1 - at(t))
        return jnp.sqrt(at(s)) * x0 + jnp.sqrt(1 - at(s)) * eps, carry

    def sampling_of(told):
        def denoise(x, t_B, prompt_BD):
            flat, t_B1 = x.reshape(len(x), D), t_B[:, None]
            eps = 2 * jnp.tanh(flat @ told["W"] + told["u"][None] * t_B1 + 0.5 * prompt_BD)
            return ((flat - jnp.sqrt(1 - at(t_B1)) * eps) / jnp.sqrt(at(t_B1))).reshape(x.shape)

        times = jnp.asarray([*(ddim.timesteps.numpy() / 1000), -0.049])
        return sampler.Sampling(
            denoise,
            jnp.tile(told["prompt"][None], (B, 1)),
            told["x_T"].reshape(SHAPE),
            sampler.image_keys(0, range(B)),
            times,
            DiffusionConfig(schedule="linear", prediction="x0"),
            Solver(lambda x: None, step, stochastic=False),
            guidance.single(lambda prompt_BD: 0 * prompt_BD, GUIDANCE),
            lambda x0, x, t: x0,
        )

    def embed(params, image):
        return jnp.tanh(image.reshape(len(image), D) @ params)

    reference = n["reference"]
    goal = Goal(embed(n["M"], reference.reshape(-1, D)).reshape(B, 3, WIDTH).mean(axis=1),
                reference.mean(axis=1).reshape(SHAPE), jnp.arange(B))  # fmt: skip
    settings = {"code": CODE, "paper": PAPER}[form]
    settings = type(settings)(**{**vars(settings), "loop": loop})
    return Objective(sampling_of, embed, settings), n["x_T"].reshape(SHAPE), n, goal, n["M"]


@pytest.fixture
def double():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # optax counts in 32 bits
        yield


@pytest.mark.parametrize("loop", ["scan", "steps"])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_five_updates_are_those_of_pytorch(double, form, loop):
    losses, gradients, noises = theirs(form)
    objective, x_T, *told = ours(form, loop)
    optimizer = optimizer_of(objective.settings)
    memory = optimizer.init(x_T)
    for i in range(UPDATES):
        scores, gradient = objective(x_T, *told)
        np.testing.assert_allclose(scores.loss_B, losses[i], rtol=1e-9, err_msg=f"loss {i}")
        np.testing.assert_allclose(gradient.reshape(B, D), gradients[i], rtol=1e-7, atol=1e-9, err_msg=f"gradient {i}")
        change, memory = optimizer.update(gradient, memory, x_T)
        x_T = optax.apply_updates(x_T, change)
        assert x_T.dtype == jnp.float64
        np.testing.assert_allclose(x_T.reshape(B, D), noises[i], rtol=1e-8, atol=1e-9, err_msg=f"noise {i}")


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_search_goes_the_same_way(double, form):
    losses, _, noises = theirs(form)
    objective, *told = ours(form, "steps")
    found = search(objective, *told, iterations=UPDATES)
    np.testing.assert_allclose(found.loss_IB[:-1], np.stack(losses), rtol=1e-8)
    norms = np.linalg.norm(np.stack([numbers()["x_T"], *noises]), axis=2)
    np.testing.assert_allclose(found.norm_IB, norms, rtol=1e-8)
    assert (found.loss_IB.min(axis=0) < found.loss_IB[0]).all()
