"""A stage of DeepFloyd IF as diffusers publishes it, a folder with `unet` and `scheduler`, as a Re-Imagen of ours.

What the U-Net is, deepfloyd.py reads off its settings; here are the process, the sampler and the text, so that the
result draws what IF draws:

  t = n / 1000 for their timestep n,  alpha and sigma those of their chain        schedule.py, (4)                (1)
  a dropped text is the empty one, embedded; all 77 tokens count, padding too     `text.frozen.padding` "kept"    (2)
  neighbour attention is added with an output of zero: the identity until it is trained                           (3)

Only safetensors are read; PyTorch's pickles are refused. Sources: diffusers' `IFPipeline`, `IFSuperResolutionPipeline`,
`DDPMScheduler`; deep-floyd/IF.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from reimagen_jax import randomness
from reimagen_jax.config import Experiment
from reimagen_jax.diffusion.degrade import CHAIN_STEPS
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.encoders.published import open_text_encoder
from reimagen_jax.encoders.settings import Cleaning, FrozenTextConfig, TextConfig
from reimagen_jax.encoders.text_embeddings import encode, normalised
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json
from reimagen_jax.nets.attention import NeighbourAttention
from reimagen_jax.nets.settings import UNetConfig
from reimagen_jax.pretrained import published_settings
from reimagen_jax.pretrained.safetensors_reader import open_checkpoint
from reimagen_jax.systems.reimagen.deepfloyd import Params, unet_config, unet_params
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

MAX_TOKENS = 77
FACTOR = 4
"""A super-resolution stage of IF enlarges so many times."""
LOGSNR_RANGE = (-20.0, 30.0)
"""Wide enough for the whole chain and, in float32, for an image without noise at its end."""
CHAIN = {
    "num_train_timesteps": CHAIN_STEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "_class_name": "DDPMScheduler",
}
"""What the settings of a `DDPMScheduler` have to be; its betas are given by its schedule."""
SAMPLED = CHAIN | {
    "variance_type": "learned_range",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "clip_sample_range": 1.0,
}
"""... where it samples, and not only adds noise; but the steps visited are ours, which begin at the noisy end."""
SCHEDULER_DEFAULTS = {
    "beta_schedule": "linear",
    "variance_type": None,
    "clip_sample": True,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
"""What diffusers takes for keys that are not there (but for the variance: fixed_small, which is not IF's either)."""
THRESHOLDING = ("clip_sample", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")
BETAS = ("beta_start", "beta_end")
NOT_SAMPLED = (*THRESHOLDING, "variance_type", "timestep_spacing", "steps_offset", "clip_sample_range")


@dataclass(frozen=True)
class Stage:
    """A stage of IF as a Re-Imagen."""

    config: Experiment
    params: Params
    """Of numpy arrays, in the host's memory."""


def read_stage(
    folder: str | Path,
    name: str,
    *,
    neighbours_at: Sequence[int] | None = None,
    text_encoder: str | Path | None = None,
    cleaning: Cleaning = "none",
    key: Key[Array, ""] | None = None,
) -> Stage:
    """Reads stage I or II of IF, with attention over neighbours from zero.

    `neighbours_at` are sides of the feature maps that attend to neighbours (default: wherever they attend to text; none
    where it is empty); `text_encoder` is the T5's folder (default: `text_encoder` in `folder`), `cleaning` what is done
    to texts, `key` draws the new layers' first weights. Raises `UserError` for what is missing, naming all settings and
    tensors that do not fit.
    """
    folder = Path(folder)
    theirs = _settings(folder / "unet", "config.json", "the settings of IF's U-Net")
    scheduler = _settings(folder / "scheduler", "scheduler_config.json", "the settings of IF's scheduler")
    noising = None
    if theirs.get("class_embed_type") is not None:  # the level of noise on the low-resolution image
        noising = _settings(folder / "image_noising_scheduler", "scheduler_config.json", "the settings of that noise")
    config = with_neighbours(stage_config(name, theirs, scheduler, noising), neighbours_at)
    checkpoint = open_checkpoint(folder / "unet")
    require(
        ("class_embedding.linear_1.weight" in checkpoint) == (noising is not None),
        f"{folder / 'unet'}: the weights and config.json are of different stages (class_embed_type)",
    )
    unet = unet_params(checkpoint, config.system.unet)
    unet |= fresh_neighbour_attention(config.system.unet, randomness.key(0) if key is None else key)
    encoder = Path(text_encoder) if text_encoder is not None else folder / "text_encoder"
    config, empty_LD = _with_encoder(config, encoder, cleaning)
    return Stage(config, {"text": {"empty_LD": empty_LD}, "unet": unet})


def stage_config(
    name: str,
    unet: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    noising: Mapping[str, Any] | None = None,
) -> Experiment:
    """The experiment that a stage's published settings describe; `noising` is about a super-resolution stage's input.

    Raises `UserError` naming all settings that are not those of IF.
    """
    scheduler = SCHEDULER_DEFAULTS | dict(scheduler)
    problems = _of(
        "scheduler", published_settings.problems(scheduler, used=THRESHOLDING, fixed=SAMPLED, harmless=BETAS)
    )
    if noising is not None:
        noising, harmless = SCHEDULER_DEFAULTS | dict(noising), (*BETAS, *NOT_SAMPLED)
        found = published_settings.problems(noising, used=(), fixed=CHAIN, harmless=harmless)
        problems += _of("image_noising_scheduler", found)
    problems += _of("scheduler", _odd_thresholds(scheduler))
    if problems:
        raise UserError("not a stage of DeepFloyd IF: " + "; ".join(problems))
    network = unet_config(unet)
    resolution, text_width = unet.get("sample_size"), unet.get("encoder_hid_dim") or unet["cross_attention_dim"]
    stride = network.stride * (1 if noising is None else FACTOR)
    require(
        isinstance(resolution, int) and 0 < resolution <= 2**16 and resolution % stride == 0,
        f"unet/config.json: sample_size is {resolution!r}: write the side of the stage's images there, a multiple of "
        f"{stride}",
    )
    stage = None
    if noising is not None:
        stage = SuperResolutionConfig(
            low_resolution=resolution // FACTOR, enlarging="linear_corners", aug_schedule="cosine_chain"
        )
    dynamic, clip = scheduler["thresholding"], scheduler["clip_sample"]
    limit = {"percentile": scheduler["dynamic_thresholding_ratio"]} if dynamic else {}
    system = ReImagenConfig(
        resolution=resolution,
        unet=network,
        text=TextConfig(
            frozen=FrozenTextConfig(width=text_width, max_tokens=MAX_TOKENS, padding="kept", lowercase=True)
        ),
        diffusion=DiffusionConfig(
            schedule="cosine_chain",
            prediction="eps",
            learned_variance=True,
            variance_steps=CHAIN_STEPS,
            logsnr_min=LOGSNR_RANGE[0],
            logsnr_max=LOGSNR_RANGE[1],
        ),
        super_resolution=stage,
        sampler=GuidedSamplerConfig(
            solver="ddpm",
            num_steps=100 if stage is None else 50,
            text_weight=7.0 if stage is None else 4.0,
            neighbour_weight=7.0 if stage is None else 4.0,
            thresholding="dynamic" if dynamic else "static" if clip else "none",
            threshold_limit=scheduler["sample_max_value"] if dynamic else None,
            aug_level=0.25 if stage is not None else 0.1,
            **limit,
        ),
    )
    return Experiment(name, system, TriplesConfig(num_neighbours=2))


def with_neighbours(config: Experiment, sides: Sequence[int] | None = None) -> Experiment:
    """The experiment with neighbour attention at the feature maps of these sides (default: at the lowest, the paper's).

    Raises `UserError` naming sides that the network does not have.
    """
    unet = config.system.unet
    side_of = [config.system.resolution // unet.patch // 2 ** (i + unet.efficient) for i in range(len(unet.levels))]
    if sides is not None and (unknown := sorted(set(sides) - set(side_of))):
        raise UserError(f"the network has no feature maps of side {unknown}: it has {', '.join(map(str, side_of))}")
    levels = tuple(
        dataclasses.replace(level, neighbour_attention=side in (side_of[-1:] if sides is None else sides))
        for level, side in zip(unet.levels, side_of, strict=True)
    )
    system = dataclasses.replace(config.system, unet=dataclasses.replace(unet, levels=levels))
    return dataclasses.replace(config, system=system)


def fresh_neighbour_attention(config: UNetConfig, key: Key[Array, ""]) -> Params:
    """(3): parameters of the neighbour attention that IF's networks lack, for `config`'s levels that ask for it."""

    def attended(attention: NeighbourAttention, features: Array) -> Array:
        return attention(features, attention.remember(features, 1), jnp.ones((1, 1), bool))

    params = {}
    for i, level in enumerate(config.levels):
        if level.neighbour_attention:
            attention = NeighbourAttention(config, level.width, config.head_width_at(i))
            features = jnp.zeros((1, 2, 2, level.width), jnp.float32)
            made = attention.init(jax.random.fold_in(key, i), features, method=attended)["params"]
            params[f"neighbour_attention_level{i}"] = jax.tree.map(np.asarray, made)
    return params


def _with_encoder(config: Experiment, folder: Path, cleaning: Cleaning) -> tuple[Experiment, np.ndarray]:
    """The experiment with its text encoder's fingerprint, and (2): float32 [77, D]."""
    settings = dataclasses.replace(config.system.text.frozen, encoder=str(folder), cleaning=cleaning)
    encoder = open_text_encoder(settings)
    try:
        empty_1LD, _ = encode(encoder, normalised([""], settings), settings)
    finally:
        encoder.release()
    settings = dataclasses.replace(settings, fingerprint=encoder.fingerprint)
    system = dataclasses.replace(config.system, text=dataclasses.replace(config.system.text, frozen=settings))
    return dataclasses.replace(config, system=system), np.asarray(empty_1LD[0], np.float32)


def _settings(folder: Path, file: str, what: str) -> dict[str, Any]:
    settings = read_json(folder / file, what)
    require(isinstance(settings, dict), f"{folder / file} is not a table of settings")
    return settings


def _of(whose: str, problems: Sequence[str]) -> list[str]:
    return [f"{whose}: {problem}" for problem in problems]


def _odd_thresholds(scheduler: Mapping[str, Any]) -> list[str]:
    """Switches that are none, and limits that are no numbers where they count."""
    switches = [f"{name} is {scheduler[name]!r}, not true or false" for name in THRESHOLDING[:2]]
    found = [text for name, text in zip(THRESHOLDING, switches, strict=False) if not isinstance(scheduler[name], bool)]
    ratio, most = (scheduler[name] for name in THRESHOLDING[2:])
    if scheduler["thresholding"] and not all(isinstance(x, int | float) for x in (ratio, most)):
        found.append(f"dynamic_thresholding_ratio {ratio!r} and sample_max_value {most!r} are not numbers")
    return found
