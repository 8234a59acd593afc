"""karlo, the one published unCLIP, as diffusers stores it: a prior, a decoder and an upsampler of ours.

  t = n / 1000 for their timestep n;  their steps round(i 999 / (n - 1))        spacing "linspace"               (1)
  a dropped text is the empty one; prior: x_0 predicted, guided, then cut       `sampler.limit`                  (2)
  embeddings as CLIP gives them, not of length 1; the prior knows (z - mean) / std                               (3)
  tokens of an embedding: feature c of token j is their feature 4 c + j         (J tokens: J c + j)              (4)
  the last step of the upsampler is taken by a network of its own               `last_step`                      (5)

A folder of karlo-v1-alpha holds `prior`, `decoder`, `text_proj`, `super_res_first`, `super_res_last`, `text_encoder`,
`tokenizer` and three schedulers; that of image variations has `image_encoder` instead of the prior. Only safetensors
are read. Sources: kakaobrain/karlo; diffusers' `UnCLIPPipeline`, whose prior cuts at 5, and karlo's own at 10.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax import randomness
from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.settings import DiffusionConfig, SuperResolutionConfig
from reimagen_jax.encoders.clip_net import MEAN, STD
from reimagen_jax.encoders.joint import published
from reimagen_jax.encoders.settings import JointConfig
from reimagen_jax.errors import UserError, require
from reimagen_jax.files import read_json
from reimagen_jax.nets.settings import Level, Tower, UNetConfig
from reimagen_jax.pretrained import published_settings
from reimagen_jax.pretrained.diffusers_unet import (
    DOWN,
    Params,
    levels_of,
    odd_levels,
    params_of,
    their_names,
    to_ours,
)
from reimagen_jax.pretrained.published_settings import LARGEST, not_counts, not_small
from reimagen_jax.pretrained.safetensors_reader import open_checkpoint
from reimagen_jax.systems.reimagen import deepfloyd
from reimagen_jax.systems.unclip.decoder import Decoder
from reimagen_jax.systems.unclip.prior import Prior
from reimagen_jax.systems.unclip.settings import (
    FROZEN,
    TOKENS,
    DecoderConfig,
    DecoderSamplerConfig,
    PriorConfig,
    PriorSamplerConfig,
    UpsamplerConfig,
    UpsamplerSamplerConfig,
)
from reimagen_jax.systems.unclip.upsampler import Upsampler

LICENCE = "creativeml-openrail-m"
"""Of karlo's weights, as Hugging Face calls it."""
CHAIN_STEPS = 1000
FACTOR = 4
"""Its super-resolution enlarges so many times."""
LOGSNR_RANGE = (-20.0, 30.0)
"""Wide enough for the whole chain and, in float32, for what is without noise at its end."""

PRIOR_DEFAULTS = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
}
PRIOR_FIXED = {
    "additional_embeddings": 4,
    "time_embed_act_fn": "silu",
    "norm_in_type": None,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "added_emb_type": "prd",
    "time_embed_dim": None,
    "embedding_proj_dim": None,
    "clip_embed_dim": None,
}
PRIOR_HARMLESS = ("dropout",)

TEXT_PROJ_DEFAULTS = {
    "clip_extra_context_tokens": 4,
    "clip_embeddings_dim": 768,
    "time_embed_dim": None,
    "cross_attention_dim": None,
}

DECODER_FIXED = deepfloyd.FIXED | {
    "cross_attention_norm": None,
    "act_fn": "silu",
    "addition_embed_type": None,
    "class_embed_type": "identity",
    "in_channels": 3,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "only_cross_attention": False,
    "mid_block_only_cross_attention": None,
    "resnet_skip_time_act": False,
    "time_embedding_act_fn": None,
    "resnet_out_scale_factor": 1.0,
    "mid_block_scale_factor": 1,
}
"""What makes a `UNet2DConditionModel` karlo's decoder."""

UPSAMPLER_DEFAULTS = {
    "in_channels": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "time_embedding_dim": None,
}
UPSAMPLER_FIXED = {
    "in_channels": 6,
    "out_channels": 3,
    "add_attention": False,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
"""What makes a `UNet2DModel` one of karlo's two for super-resolution."""
UPSAMPLER_RELATED = ("sample_size", *UPSAMPLER_DEFAULTS)
UPSAMPLER_HARMLESS = (
    *("dropout", "num_train_timesteps"),  # of training; of another embedding of the time
    *("downsample_padding", "downsample_type", "upsample_type", "attention_head_dim"),  # of blocks that karlo has not
)
TIMES = {"default": "add", "scale_shift": "scale_shift"}
"""What they and we call what a residual block does with its condition."""

SCHEDULER_DEFAULTS = {
    "variance_type": "fixed_small_log",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
}
SCHEDULER_FIXED = {
    "num_train_timesteps": CHAIN_STEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "_class_name": "UnCLIPScheduler",
}

PRIOR_NAMES = {
    "time1": "time_embedding.linear_1",
    "time2": "time_embedding.linear_2",
    "state": "encoder_hidden_states_proj",
    "text": "embedding_proj",
    "image": "proj_in",
    "out": "proj_to_clip_embeddings",
    "transformer/norm": "norm_out",
}
PRIOR_PARAMETERS = {"query": "prd_embedding", "transformer/position": "positional_embedding"}
PRIOR_BLOCK = {
    "norm1": "norm1",
    "query": "attn1.to_q",
    "key": "attn1.to_k",
    "value": "attn1.to_v",
    "out": "attn1.to_out.0",
    "norm2": "norm3",
    "mlp1": "ff.net.0.proj",
    "mlp2": "ff.net.2",
}
STATISTICS = {"mean": "clip_mean", "std": "clip_std"}
EMBEDDING_NAMES = {
    "image_time": "clip_image_embeddings_project_to_time_embeddings",
    "text_time": "embedding_proj",
    "image_tokens": "clip_extra_context_tokens_proj",
    "text": "encoder_hidden_states_proj",
    "text_norm": "text_encoder_hidden_states_norm",
}
NULL = "learned_classifier_free_guidance_embeddings"


@dataclass(frozen=True)
class Stage:
    """A part of karlo as a system of ours."""

    config: Experiment
    params: Params
    """Of numpy arrays, in the host's memory; CLIP's as it was read."""


def is_karlo(folder: str | Path) -> bool:
    """Whether the folder looks like one of karlo's pipelines."""
    return (Path(folder) / "text_proj").is_dir()


def parts_of(folder: str | Path) -> tuple[str, ...]:
    """The parts that a folder has: prior (but for one of image variations), decoder, upsampler."""
    return (*(("prior",) if (Path(folder) / "prior").is_dir() else ()), "decoder", "upsampler")


def read(folder: str | Path, name: str, *, image_encoder: str | Path | None = None) -> dict[str, Stage]:
    """Reads karlo; the parts are called `name` and what they are.

    `image_encoder` is the folder of CLIP's image tower (default: `image_encoder` in `folder`, where there is one):
    only with it can pictures be embedded. Raises `UserError` for what is missing, naming all settings and tensors of a
    part that do not fit.
    """
    folder = Path(folder)
    there = folder / "image_encoder"
    image = Path(image_encoder) if image_encoder is not None else there if there.is_dir() else None
    _check_preprocessing(folder)
    clip, towers = published(folder / "text_encoder", image=image, tokenizer=folder / "tokenizer", normalised=False)
    readers = {"prior": _read_prior, "decoder": _read_decoder}
    stages = {}
    for part in parts_of(folder):
        if part == "upsampler":
            stages[part] = _read_upsampler(folder, f"{name}_{part}")
        else:
            stage = readers[part](folder, f"{name}_{part}", clip)
            stages[part] = Stage(stage.config, {"clip": towers, **stage.params})
    return stages


def _read_prior(folder: Path, name: str, clip: JointConfig) -> Stage:
    config = _experiment(name, prior_config(_settings(folder, "prior"), _settings(folder, "prior_scheduler"), clip))
    return Stage(config, prior_params(open_checkpoint(folder / "prior"), Prior(config)))


def _read_decoder(folder: Path, name: str, clip: JointConfig) -> Stage:
    network, projections = _settings(folder, "decoder"), _settings(folder, "text_proj")
    config = _experiment(name, decoder_config(network, projections, _settings(folder, "decoder_scheduler"), clip))
    system, model = Decoder(config), config.system
    text_proj, unet = open_checkpoint(folder / "text_proj"), open_checkpoint(folder / "decoder")
    laid_out = embedding_layout(model.image_tokens)
    expected = _shapes(system, ("embedding",))
    params = _within("text_proj", lambda: params_of(text_proj, expected, embedding_names, laid_out))
    return Stage(config, params | _unet(unet, system, "unet", model.unet, "decoder"))


def _read_upsampler(folder: Path, name: str) -> Stage:
    first, last = (_settings(folder, f"super_res_{which}") for which in ("first", "last"))
    config = _experiment(name, upsampler_config(first, last, _settings(folder, "super_res_scheduler")))
    system, params = Upsampler(config), {}
    for where, which in (("unet", "super_res_first"), ("unet_last", "super_res_last")):
        params |= _unet(open_checkpoint(folder / which), system, where, config.system.unet, which)
    return Stage(config, params)


def prior_config(theirs: Mapping[str, Any], scheduler: Mapping[str, Any], clip: JointConfig) -> PriorConfig:
    """Our settings for karlo's prior. Raises `UserError` naming those that it has not."""
    theirs, scheduler = PRIOR_DEFAULTS | dict(theirs), SCHEDULER_DEFAULTS | dict(scheduler)
    problems = published_settings.problems(theirs, used=PRIOR_DEFAULTS, fixed=PRIOR_FIXED, harmless=PRIOR_HARMLESS)
    most = {"num_attention_heads": 1024, "attention_head_dim": 1024, "num_layers": 1000}
    problems += not_counts(theirs, most)
    for key, wanted in (("embedding_dim", clip.width), ("embedding_dim", clip.text_width)):
        problems += [] if theirs[key] == wanted else [f"{key} is {theirs[key]!r}, but CLIP's is {wanted}"]
    if theirs["num_embeddings"] != clip.max_tokens:
        problems.append(f"num_embeddings is {theirs['num_embeddings']!r}, but CLIP's texts have {clip.max_tokens}")
    problems += _of("scheduler", _odd_schedule(scheduler, "sample", "fixed_small_log"))
    _refuse("prior", problems)
    width = theirs["num_attention_heads"] * theirs["attention_head_dim"]
    return PriorConfig(
        clip=clip,
        tower=Tower(width, theirs["num_layers"], theirs["num_attention_heads"], 4 * width, "gelu"),
        diffusion=_chain("x0"),
        scaling="statistics",
        null="empty",
        text_drop=0.2,
        sampler=PriorSamplerConfig(
            num_steps=25,
            spacing="linspace",
            solver="ddpm",
            text_weight=4.0,
            limit=float(scheduler["clip_sample_range"]) if scheduler["clip_sample"] else None,
            candidates=1,
        ),
    )


def decoder_config(
    theirs: Mapping[str, Any], text_proj: Mapping[str, Any], scheduler: Mapping[str, Any], clip: JointConfig
) -> DecoderConfig:
    """Our settings for karlo's decoder and its projections. Raises `UserError` naming those that they have not."""
    theirs, text_proj = deepfloyd.DEFAULTS | dict(theirs), TEXT_PROJ_DEFAULTS | dict(text_proj)
    scheduler = SCHEDULER_DEFAULTS | dict(scheduler)
    problems = published_settings.problems(
        theirs, used=deepfloyd.RELATED, fixed=DECODER_FIXED, harmless=deepfloyd.HARMLESS
    )
    problems += _odd_network(theirs, {"attention_head_dim": 1024, "cross_attention_dim": 2**20})
    found = published_settings.problems(text_proj, used=TEXT_PROJ_DEFAULTS, fixed={}, harmless=())
    found += not_counts(text_proj, {**dict.fromkeys(TEXT_PROJ_DEFAULTS, 2**20), "clip_extra_context_tokens": 1024})
    if not problems:
        wanted = {"cross_attention_dim": theirs["cross_attention_dim"], "time_embed_dim": _time_width(theirs)}
        wanted |= {"clip_embeddings_dim": clip.width}
        found += [
            f"{key} is {text_proj[key]!r}, not {value}" for key, value in wanted.items() if text_proj[key] != value
        ]
    problems += _of("text_proj", found)
    problems += _of("scheduler", _odd_schedule(scheduler, "epsilon", "learned_range", images=True))
    _refuse("decoder", problems)
    return DecoderConfig(
        resolution=_side(theirs, "decoder"),
        clip=clip,
        unet=_unet_config(theirs, attention=True, head_width=theirs["attention_head_dim"], **TOKENS),
        diffusion=_chain("eps", learned_variance=True),
        token_width=theirs["cross_attention_dim"],
        image_tokens=text_proj["clip_extra_context_tokens"],
        text_in_time=True,
        embedding_drop=0.1,
        text_drop=0.3,
        sampler=DecoderSamplerConfig(
            num_steps=25,
            spacing="linspace",
            solver="ddpm",
            text_weight=8.0,
            thresholding="static" if scheduler["clip_sample"] else "none",
            handed_on="floats",
        ),
    )


def upsampler_config(
    first: Mapping[str, Any], last: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> UpsamplerConfig:
    """Our settings for karlo's two networks of super-resolution. Raises `UserError` naming those that they have not."""
    first, last = ({"sample_size": None, **UPSAMPLER_DEFAULTS, **theirs} for theirs in (first, last))
    scheduler, problems = SCHEDULER_DEFAULTS | dict(scheduler), []
    for theirs in (first, last):
        found = published_settings.problems(
            theirs, used=UPSAMPLER_RELATED, fixed=UPSAMPLER_FIXED, harmless=UPSAMPLER_HARMLESS
        )
        found += _odd_network(theirs, {})
        if theirs["resnet_time_scale_shift"] not in TIMES:
            found.append(f"resnet_time_scale_shift is {theirs['resnet_time_scale_shift']!r}, not {' or '.join(TIMES)}")
        if not found and DOWN[1] in theirs["down_block_types"]:
            found.append(f"down_block_types are {theirs['down_block_types']!r}, not {DOWN[0]} alone")
        problems += [problem for problem in found if problem not in problems]
    problems += [
        f"{key} is {first[key]!r} in super_res_first, {last[key]!r} in super_res_last"
        for key in UPSAMPLER_RELATED
        if not problems and _plain(first[key]) != _plain(last[key])
    ]
    problems += _of("scheduler", _odd_schedule(scheduler, "epsilon", "fixed_small_log", images=True))
    _refuse("super-resolution", problems)
    resolution = _side(first, "super_res_first", stride=FACTOR)
    time = TIMES[first["resnet_time_scale_shift"]]
    unet = _unet_config(first, attention=False, text_pooling="none", time=time, aug_level=False)
    return UpsamplerConfig(
        resolution=resolution,
        unet=unet,
        last_step=True,
        diffusion=_chain("eps"),
        super_resolution=SuperResolutionConfig(low_resolution=resolution // FACTOR, aug_levels=(0.0, 0.0)),
        sampler=UpsamplerSamplerConfig(
            num_steps=7,
            spacing="linspace",
            solver="ddpm",
            thresholding="static" if scheduler["clip_sample"] else "none",
        ),
    )


def prior_params(state: Mapping[str, np.ndarray], system: Prior) -> Params:
    """{"prior": ..., "statistics": ...} of a state dict of theirs. Raises `UserError` naming all that does not fit."""
    expected = _shapes(system, ("prior", "statistics"))
    return _within("prior", lambda: params_of(state, expected, prior_names, prior_layout))


def prior_names(path: str) -> list[str]:
    """The entry there that is the parameter `path` of {"prior": ..., "statistics": ...} here."""
    tree, path = path.split("/", 1)
    if tree == "statistics":
        return [STATISTICS[path]]
    if path in PRIOR_PARAMETERS:
        return [PRIOR_PARAMETERS[path]]
    module, leaf = path.rsplit("/", 1)
    if module in PRIOR_NAMES:
        name = PRIOR_NAMES[module]
    else:
        _, block, part = module.split("/")
        name = f"transformer_blocks.{block.removeprefix('block')}.{PRIOR_BLOCK[part]}"
    return [f"{name}.{'bias' if leaf == 'bias' else 'weight'}"]


def prior_layout(path: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Their parameters that stand for a batch or a token have axes of one in front."""
    (array,) = arrays
    if path.startswith("statistics/") or path == "prior/query":
        return np.reshape(array, -1)
    return array[0] if path.endswith("/position") and np.ndim(array) == 3 else to_ours(path, arrays)


def embedding_names(path: str) -> list[str]:
    """The entry of `text_proj` that is the parameter `path` of {"embedding": ...} here."""
    _, path = path.split("/", 1)
    if path == "null":
        return [NULL]
    module, leaf = path.rsplit("/", 1)
    return [f"{EMBEDDING_NAMES[module]}.{'bias' if leaf == 'bias' else 'weight'}"]


def embedding_layout(tokens: int) -> Callable[[str, Sequence[np.ndarray]], np.ndarray]:
    """(4)"""

    def layout(path: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
        array = to_ours(path, arrays)
        if "/image_tokens/" not in path or array.shape[-1] % tokens:
            return array
        apart = array.reshape(*array.shape[:-1], -1, tokens)
        return np.swapaxes(apart, -1, -2).reshape(array.shape)

    return layout


def _unet(state: Mapping[str, np.ndarray], system: Any, tree: str, config: UNetConfig, where: str) -> Params:
    """Parameters of a U-Net, {`tree`: ...}."""

    def names(path: str) -> list[str]:
        return their_names(path.split("/", 1)[1], len(config.levels))

    return _within(where, lambda: params_of(state, _shapes(system, (tree,)), names))


def _shapes(system: Any, trees: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Path to shape of the parameters of these trees; nothing is computed."""
    params = jax.eval_shape(system.init, randomness.key(0))
    flat = flatten_dict({tree: params[tree] for tree in trees}, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _within(part: str, read: Callable[[], Params]) -> Params:
    """What `read` gives; its errors say where they are."""
    try:
        return read()
    except UserError as error:
        raise UserError(f"{part}: {error}") from error


def _unet_config(theirs: Mapping[str, Any], *, attention: bool, **settings: Any) -> UNetConfig:
    return UNetConfig(
        levels=tuple(
            Level(width, blocks, self_attention=attends and attention) for width, blocks, attends in levels_of(theirs)
        ),
        groups=32,
        cond_width=_time_width(theirs),
        time_features=theirs["block_out_channels"][0],
        norm_epsilon=theirs["norm_eps"],
        **settings,
    )


def _odd_network(theirs: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    if theirs["time_embedding_dim"] is not None:
        counts = {**counts, "time_embedding_dim": 2**20}
    return not_counts(theirs, counts) + not_small(theirs, "norm_eps") + odd_levels(theirs)


def _time_width(theirs: Mapping[str, Any]) -> int:
    return theirs["time_embedding_dim"] or 4 * theirs["block_out_channels"][0]


def _side(theirs: Mapping[str, Any], where: str, stride: int = 1) -> int:
    """Of the images."""
    side, stride = theirs.get("sample_size"), stride * 2 ** (len(theirs["block_out_channels"]) - 1)
    fits = isinstance(side, int) and 0 < side <= 2**16 and side % stride == 0
    require(
        fits,
        f"{where}/config.json: sample_size is {side!r}: write the side of its images there, a multiple of {stride}",
    )
    return side


def _odd_schedule(theirs: Mapping[str, Any], prediction: str, variance: str, *, images: bool = False) -> list[str]:
    """What a scheduler has that karlo's, of a stage that predicts this with such a variance, has not."""
    fixed = SCHEDULER_FIXED | {"prediction_type": prediction, "variance_type": variance}
    fixed |= {"clip_sample_range": 1.0} if images else {}
    found = published_settings.problems(theirs, used=SCHEDULER_DEFAULTS, fixed=fixed, harmless=())
    clip, limit = theirs["clip_sample"], theirs["clip_sample_range"]
    if not isinstance(clip, bool):
        found.append(f"clip_sample is {clip!r}, not true or false")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < LARGEST:
        found.append(f"clip_sample_range is {limit!r}, not a number above 0")
    return found


def _chain(prediction: str, **settings: Any) -> DiffusionConfig:
    """(1)"""
    low, high = LOGSNR_RANGE
    return DiffusionConfig(
        schedule="cosine_chain",
        prediction=prediction,
        variance_steps=CHAIN_STEPS,
        logsnr_min=low,
        logsnr_max=high,
        **settings,
    )


def _experiment(name: str, system: Any) -> Experiment:
    rates = () if isinstance(system, UpsamplerConfig) else (FROZEN,)
    return Experiment(name, system, train=TrainConfig(rates=rates))


def _settings(folder: Path, part: str) -> dict[str, Any]:
    file = "scheduler_config.json" if part.endswith("scheduler") else "config.json"
    settings = read_json(folder / part / file, f"the settings of karlo's {part}")
    require(isinstance(settings, dict), f"{folder / part / file} is not a table of settings")
    return settings


def _check_preprocessing(folder: Path) -> None:
    """Raises `UserError` where images are to be prepared in another way than CLIP's."""
    path = folder / "feature_extractor" / "preprocessor_config.json"
    if not path.is_file():
        return
    settings = read_json(path, "how karlo's images are prepared")
    require(isinstance(settings, dict), f"{path} is not a table of settings")
    for key, ours in (("image_mean", MEAN), ("image_std", STD)):
        theirs = settings.get(key)
        fits = theirs is None or (np.shape(theirs) == ours.shape and np.allclose(theirs, ours, atol=1e-4))
        require(fits, f"{path}: {key} is {theirs!r}, but CLIP's images are prepared by {ours.tolist()}")


def _refuse(part: str, problems: Sequence[str]) -> None:
    if problems:
        raise UserError(f"not karlo's {part}: " + "; ".join(problems))


def _of(whose: str, problems: Sequence[str]) -> list[str]:
    return [f"{whose}: {problem}" for problem in problems]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
