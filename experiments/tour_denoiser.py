# %% [markdown]
# # A denoiser of your own
#
# The sampler, its solvers and the guidance know no image, no text and no network. Here they draw from a mixture of
# Gaussians in the plane, whose best denoiser is a formula, so that everything can be checked. A few seconds on a CPU.

# %%
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from reimagen_jax.diffusion import guidance, sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig, SamplerConfig

OUT = Path("runs/tour_denoiser")
OUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The denoiser
#
# `denoise(x_t, t, condition) -> prediction`. The condition is any pytree with the batch axis first; ours says which of
# two classes is wanted, and whether that counts: dropping a part of a condition is a mask, never another program. Each
# class is two of four Gaussians of standard deviation 0.1.

# %%
PROCESS = DiffusionConfig(schedule="cosine", prediction="x0")
MEAN_M2 = jnp.array([[-0.6, -0.6], [-0.6, 0.6], [0.6, -0.6], [0.6, 0.6]])
CLASS_M = jnp.array([0, 0, 1, 1])
DEVIATION = 0.1


def denoise(x_B2, t_B, condition):
    """E[x_0 | x_t, class]: each Gaussian's own mean, weighted by how likely it is."""
    alpha_B, sigma_B = schedule.alpha_sigma(t_B, PROCESS)
    variance_B = (alpha_B * DEVIATION) ** 2 + sigma_B**2
    off_BM2 = x_B2[:, None] - alpha_B[:, None, None] * MEAN_M2
    allowed_BM = (condition["class"][:, None] == CLASS_M) | ~condition["counts"][:, None]
    logit_BM = -jnp.sum(off_BM2**2, axis=-1) / (2 * variance_B[:, None])
    share_BM = jax.nn.softmax(jnp.where(allowed_BM, logit_BM, -jnp.inf), axis=-1)
    gain_B = alpha_B * DEVIATION**2 / variance_B
    return jnp.einsum("bm,bmd->bd", share_BM, MEAN_M2 + gain_B[:, None, None] * off_BM2)


# %% [markdown]
# ## Sampling
#
# Noise, times, a solver, a guide and a projection, each chosen by itself. `keys_B` is one key a sample: sample i of a
# seed is the same in every batch.

# %%
SAMPLES, STEPS = 2_000, 24
keys_B = sampler.image_keys(0, range(SAMPLES))
noise_B, _, step_B = sampler.split_keys(keys_B)
x_T = sampler.initial_noise(noise_B, (2,))
condition = {"class": jnp.arange(SAMPLES) % 2, "counts": jnp.ones(SAMPLES, bool)}
no_limit = sampler.projection(SamplerConfig(thresholding="none"))


def draw(solver, guide):
    times_T = schedule.times(STEPS, PROCESS)
    return np.asarray(
        jax.jit(sampler.sample, static_argnums=(0, 5, 6, 7, 8))(
            denoise, condition, x_T, step_B, times_T, PROCESS, solver, guide, no_limit
        )
    )


for name, solver in {
    "ddim": solvers.ddim(PROCESS),
    "2m": solvers.dpmpp_2m(PROCESS),
    "ddpm": solvers.ddpm(PROCESS),
}.items():
    x_B2 = draw(solver, guidance.unguided)
    right = np.mean((x_B2[:, 0] > 0) == np.asarray(condition["class"]))
    to_mean = np.abs(x_B2[:, None] - np.asarray(MEAN_M2)).sum(-1).argmin(-1)
    spread = np.sqrt(np.mean((x_B2 - np.asarray(MEAN_M2)[to_mean]) ** 2))
    print(f"{name:4}  right class {right:.3f}, standard deviation {spread:.3f} (true: {DEVIATION})")

# %% [markdown]
# ## Guiding
#
# Classifier-free guidance of weight w draws towards the class and away from none: given the condition, and what is left
# of it without its part. A guide of your own has the same signature: `(denoise, x, t, condition, i) -> prediction`.

# %%


def without_class(condition):
    """The condition, of which nothing counts."""
    return condition | {"counts": jnp.zeros_like(condition["counts"])}


def only_at_first(denoise, x, t_B, condition, i):
    """A guide of one's own: the class is told in the first half of the steps alone."""
    counts = condition["counts"] & (i < STEPS // 2)
    return denoise(x, t_B, condition | {"counts": counts})


GUIDES = {
    "no guidance": guidance.unguided,
    "weight 3": guidance.single(without_class, jnp.full(SAMPLES, 3.0)),
    "told in the first half": only_at_first,
}
drawn = {name: draw(solvers.ddim(PROCESS), guide) for name, guide in GUIDES.items()}

# %%
figure = Figure(figsize=(9, 3.2), layout="constrained")
for axes, (name, x_B2) in zip(figure.subplots(1, len(drawn), sharex=True, sharey=True), drawn.items(), strict=True):
    axes.scatter(*x_B2.T, c=np.asarray(condition["class"]), s=2, cmap="coolwarm")
    axes.set_title(name, fontsize=10)
    axes.set_aspect("equal")
figure.savefig(OUT / "guides.png", dpi=120)
print(f"pictures: {OUT / 'guides.png'}")
