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

from reimagen_jax.config import Experiment
from reimagen_jax.diffusion.degrade import CHAIN_STEPS
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.encoders.published import open_text_encoder
from reimagen_jax.encoders.settings import FrozenTextConfig, TextConfig
from reimagen_jax.encoders.text_embeddings import encode, normalised
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json
from reimagen_jax.nets.attention import NeighbourAttention
from reimagen_jax.nets.settings import UNetConfig
from reimagen_jax.pretrained.safetensors_reader import open_checkpoint
from reimagen_jax.systems.reimagen.deepfloyd import Params, unet_config, unet_params
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig

MAX_TOKENS = 77
FACTOR = 4
"""A super-resolution stage of IF enlarges so many times."""
LOGSNR_RANGE = (-20.0, 30.0)
"""Wide enough for the whole chain and, in float32, for an image without noise at its end."""
CHAIN = {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
"""What `DDPMScheduler` settings have to be, where they are given."""
SAMPLED = {"timestep_spacing": "leading", "steps_offset": 0, "clip_sample_range": 1.0}


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
    key: Key[Array, ""] | None = None,
) -> Stage:
    """Reads stage I or II of IF, with attention over neighbours from zero.

    `neighbours_at` are sides of the feature maps that attend to neighbours (default: wherever they attend to text; none
    where it is empty); `text_encoder` is the T5's folder (default: `text_encoder` in `folder`), `key` draws the new
    layers' first weights. Raises `UserError` for what is missing, naming all settings and tensors that do not fit.
    """
    folder = Path(folder)
    theirs = _settings(folder / "unet", "config.json", "the settings of IF's U-Net")
    scheduler = _settings(folder / "scheduler", "scheduler_config.json", "the settings of IF's scheduler")
    noising = None
    if theirs.get("class_embed_type") is not None:  # the level of noise on the low-resolution image
        noising = _settings(folder / "image_noising_scheduler", "scheduler_config.json", "the settings of that noise")
    config = with_neighbours(stage_config(name, theirs, scheduler, noising), neighbours_at)
    unet = unet_params(open_checkpoint(folder / "unet"), config.system.unet)
    unet |= fresh_neighbour_attention(config.system.unet, jax.random.key(0) if key is None else key)
    encoder = Path(text_encoder) if text_encoder is not None else folder / "text_encoder"
    config, empty_LD = _with_encoder(config, encoder)
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
    problems = [
        *_wrong("scheduler", scheduler, CHAIN | SAMPLED),
        *_wrong("scheduler", {"variance_type": None, **scheduler}, {"variance_type": "learned_range"}),
        *_wrong("image_noising_scheduler", noising or {}, CHAIN | {"num_train_timesteps": CHAIN_STEPS}),
    ]
    if problems:
        raise UserError("not a stage of DeepFloyd IF: " + "; ".join(problems))
    resolution, text_width = unet["sample_size"], unet.get("encoder_hid_dim") or unet["cross_attention_dim"]
    require(resolution is not None, "unet/config.json has no sample_size: write the side of the stage's images there")
    stage = None
    if noising is not None:
        stage = SuperResolutionConfig(
            low_resolution=resolution // FACTOR, enlarging="linear_corners", aug_schedule="cosine_chain"
        )
    dynamic, clip = scheduler.get("thresholding", False), scheduler.get("clip_sample", True)
    limit = {"percentile": scheduler.get("dynamic_thresholding_ratio", 0.995)} if dynamic else {}
    system = ReImagenConfig(
        resolution=resolution,
        unet=unet_config(unet),
        text=TextConfig(
            frozen=FrozenTextConfig(width=text_width, max_tokens=MAX_TOKENS, padding="kept", lowercase=True)
        ),
        diffusion=DiffusionConfig(
            schedule="cosine_chain",
            prediction="eps",
            learned_variance=True,
            variance_steps=scheduler.get("num_train_timesteps", 1000),
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
            threshold_limit=scheduler.get("sample_max_value", 1.0) if dynamic else None,
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


def _with_encoder(config: Experiment, folder: Path) -> tuple[Experiment, np.ndarray]:
    """The experiment with its text encoder's fingerprint, and (2): float32 [77, D]."""
    settings = dataclasses.replace(config.system.text.frozen, encoder=str(folder))
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


def _wrong(whose: str, theirs: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [
        f"{whose}: {name} is {theirs[name]!r}, not {value!r}"
        for name, value in wanted.items()
        if theirs.get(name, value) != value
    ]
