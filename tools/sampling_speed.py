"""Seconds to draw an image: every solver at equal evaluations, and beside diffusers' IF pipeline and imagen-pytorch.

    python tools/sampling_speed.py                                       # the shipped model: solvers by batch
    python tools/sampling_speed.py --beside diffusers imagen --threads 1

Beside diffusers both draw with the same random weights, a third as wide as IF's medium stage I, at half its side:
`IFPipeline` with its `DDPMScheduler`, from given embeddings. Beside imagen-pytorch both have as many parameters: its
`Imagen.sample`, with the U-Net of tools/rival.py. Each draws by guided ancestral sampling with dynamic thresholding,
two evaluations a step, whole batches of noise to images; both in float32, in one process, in turn. A ratio is of
neighbouring runs, told as its median and quartiles, by the clock and in CPU time. Threads that wait for each other run
down on a busy machine, PyTorch's more than JAX's: there only `--threads 1` and CPU time tell which is the faster.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import tyro

from reimagen_jax import runtime
from reimagen_jax.diffusion.settings import Solver

Beside = Literal["diffusers", "imagen"]
PACKAGES: dict[Beside, str] = {"diffusers": "diffusers", "imagen": "imagen_pytorch"}


@dataclass(frozen=True)
class SamplingSpeed:
    """Time whole drawings."""

    model: str = "shipped"
    """Whose solvers are timed; "" for none."""
    solvers: tuple[Solver, ...] = get_args(Solver)
    batches: tuple[int, ...] = (1, 8)
    """Images drawn at once, one measurement for each."""
    evaluations: int = 12
    """Of the guided network, an image: steps, of which Heun's but the last have two."""
    beside: tuple[Beside, ...] = ()
    """Others to be measured beside; PyTorch is needed."""
    rounds: int = 5
    """In each of which everything is timed once, in turn, after one that does not count."""
    threads: int = 0
    """CPU threads, 0 for all."""


def in_turn(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """The times of actions that wait for their own end: [rounds, 2], by the clock and in CPU time."""
    import numpy as np

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, act in actions.items():
            clock, cpu = time.perf_counter(), time.process_time()
            act()
            if number:
                times[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {name: np.array(found) for name, found in times.items()}


def steps_of(solver: Solver, evaluations: int) -> int:
    """The steps of so many evaluations."""
    return (evaluations + 1) // 2 if solver == "heun" else evaluations


def drawing(system: Any, params: Any, inputs: Any, settings: Any) -> Callable[[], Any]:
    """A function that draws a batch and waits for it."""
    import jax

    from reimagen_jax.diffusion.sampler import image_keys

    keys = image_keys(0, range(len(inputs.eta_B)))
    program = jax.jit(lambda params, inputs, keys: system.sample(params, inputs, keys, settings))
    return lambda: program(params, inputs, keys).block_until_ready()


def blank(system: Any, batch: int, settings: Any) -> Any:
    """Inputs of the right shapes, all text and neighbours there; guidance weights of 3."""
    import jax
    import jax.numpy as jnp

    spec = system.inputs_spec(batch, settings)
    inputs = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), spec)
    return inputs.replace(eta_B=0.5 * inputs.eta_B, text_weight_B=3.0 * inputs.text_weight_B)


def solvers(args: SamplingSpeed) -> dict[str, dict[int, float]]:
    """A line for each solver: seconds an image, by batch. Returns them."""
    from reimagen_jax.inference.model import Model
    from reimagen_jax.systems import kinds

    model = Model.open(args.model)
    system, settings = kinds.system_of(model.config), model.config.system.sampler
    print(f"{model.config.name}, {args.evaluations} guided evaluations an image; seconds an image (CPU time)")
    found: dict[str, dict[int, float]] = {solver: {} for solver in args.solvers}
    for batch in args.batches:
        actions = {}
        for solver in args.solvers:
            chosen = replace(settings, solver=solver, num_steps=steps_of(solver, args.evaluations))
            actions[solver] = drawing(system, model.params, blank(system, batch, chosen), chosen)
        for solver, times in in_turn(actions, args.rounds).items():
            clock, cpu = (sorted(column)[len(column) // 2] / batch for column in times.T)
            found[solver][batch] = clock
            print(f"  batch {batch:3}  {solver:<14} {clock:8.4f} ({cpu:.4f})", flush=True)
    return found


def text_to_image(unet: Any, text: Any, process: Any, side: int, steps: int, **sampler: Any) -> Any:
    """A Re-Imagen without neighbours, guided against the empty text."""
    from reimagen_jax.config import Experiment
    from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig
    from reimagen_jax.systems.reimagen.system import ReImagen

    settings = GuidedSamplerConfig(
        solver="ddpm", num_steps=steps, guidance="joint", thresholding="dynamic", percentile=0.95, **sampler
    )
    model = ReImagenConfig(resolution=side, unet=unet, text=text, diffusion=process, sampler=settings)
    return ReImagen(Experiment("beside", model, TriplesConfig(num_neighbours=0)))


def beside_diffusers(batch: int, steps: int) -> tuple[str, dict[str, Callable[[], Any]]]:
    """Both as functions, and what they are."""
    import diffusers
    import jax
    import numpy as np
    import torch

    from reimagen_jax.encoders.texts import Embedded
    from reimagen_jax.nets.unet import Condition
    from reimagen_jax.systems.reimagen.deepfloyd import unet_config, unet_params
    from reimagen_jax.systems.reimagen.presets import IF_PROCESS, IF_TEXT

    side, width, text_width, tokens = 32, 64, 1024, 77
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=side,
        in_channels=3,
        out_channels=6,
        block_out_channels=(width, 2 * width, 3 * width, 4 * width),
        layers_per_block=3,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        attention_head_dim=32,
        cross_attention_dim=4 * width,
        encoder_hid_dim=text_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=text_width // 32,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    ).eval()
    scheduler = diffusers.DDPMScheduler(
        variance_type="learned_range",
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )
    absent = dict.fromkeys(("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker"))
    pipeline = diffusers.IFPipeline(unet=unet, scheduler=scheduler, requires_safety_checker=False, **absent)
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(0)
    text_BLD, empty_LD = (rng.standard_normal((*lead, tokens, text_width), np.float32) for lead in ((batch,), ()))
    told = {"prompt_embeds": torch.tensor(text_BLD)}
    told["negative_prompt_embeds"] = torch.tensor(np.broadcast_to(empty_LD, text_BLD.shape).copy())

    def theirs() -> Any:
        return pipeline(**told, num_inference_steps=steps, guidance_scale=3.0, output_type="np")

    config = unet_config(unet.config)
    weights = unet_params({name: tensor.numpy() for name, tensor in unet.state_dict().items()}, config)
    text = replace(IF_TEXT, frozen=replace(IF_TEXT.frozen, width=text_width))
    system = text_to_image(config, text, IF_PROCESS, side, steps, threshold_limit=1.5, spacing="leading")
    inputs = blank(system, batch, system.settings)
    inputs = inputs.replace(tokens_BL=Embedded(text_BLD, np.ones((batch, tokens), bool)))
    params = {"unet": weights, "text": {"empty_LD": empty_LD}}
    x_BHWC, t_B = rng.standard_normal((batch, side, side, 3), np.float32), np.full(batch, 0.5, np.float32)
    ours = jax.jit(system.denoiser(params))(x_BHWC, t_B, Condition(text_BLD, np.ones((batch, tokens), bool)))
    with torch.no_grad():
        said = unet(torch.tensor(x_BHWC).movedim(-1, 1), torch.tensor(500), told["prompt_embeds"]).sample
    error = np.abs(ours - said.movedim(1, -1).numpy()).max() / said.abs().max().item()
    size = sum(parameter.numel() for parameter in unet.parameters())
    what = f"diffusers {diffusers.__version__}, IFPipeline: {size / 1e6:.1f}M parameters, side {side}"
    return f"{what}; predictions differ by {error:.1e}", {
        "ours": drawing(system, params, inputs, system.settings),
        "theirs": theirs,
    }


def beside_imagen(batch: int, steps: int) -> tuple[str, dict[str, Callable[[], Any]]]:
    """Both as functions, and what they are."""
    import jax
    import measure  # beside this file
    import rival
    import torch

    from reimagen_jax.encoders.settings import FrozenTextConfig, TextConfig
    from reimagen_jax.encoders.texts import Embedded

    model = measure.experiment("base-small", True, batch).system
    levels = tuple(replace(level, neighbour_attention=False) for level in model.unet.levels)
    width, tokens, side = model.text.width, model.text.max_bytes // model.text.stride, model.resolution
    text = TextConfig(frozen=FrozenTextConfig(width=width, max_tokens=tokens))
    system = text_to_image(replace(model.unet, levels=levels), text, model.diffusion, side, steps)
    params = jax.jit(system.init)(jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    setting = rival.Setting(side, levels[0].width, levels[0].blocks, 8, model.unet.head_width, width, tokens, batch)
    theirs = rival.Rival(rival.matching(setting, size))
    inputs = blank(system, batch, system.settings)
    shown = Embedded(theirs.text.cpu().numpy(), theirs.mask.cpu().numpy())
    what = f"{theirs.name}, Imagen.sample: {size / 1e6:.1f}M and {theirs.parameters / 1e6:.1f}M parameters, side {side}"
    sampler = theirs.sampler(steps)

    def draw() -> torch.Tensor:
        return sampler.sample(
            text_embeds=theirs.text, text_masks=theirs.mask, cond_scale=3.0, batch_size=batch, use_tqdm=False
        )

    return what, {
        "ours": drawing(system, params, inputs.replace(tokens_BL=shown), system.settings),
        "theirs": draw,
    }


def beside(name: Beside, args: SamplingSpeed) -> None:
    """Both of them by batch, and their ratio."""
    import numpy as np
    import torch

    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    steps = args.evaluations // 2
    for batch in args.batches:
        what, actions = {"diffusers": beside_diffusers, "imagen": beside_imagen}[name](batch, steps)
        print(f"{what}; batch {batch}, {steps} steps of 2 evaluations, {torch.get_num_threads()} threads", flush=True)
        times = in_turn(actions, args.rounds)
        for column, clock in enumerate(("by the clock", "in CPU time")):
            ours, theirs = (times[who][:, column] for who in ("ours", "theirs"))
            low, middle, high = np.percentile(theirs / ours, [25, 50, 75])
            seconds = f"{np.median(ours) / batch:.3f} and {np.median(theirs) / batch:.3f} s an image"
            print(f"  {clock}: {seconds}; ours is {middle:.2f} x as fast [{low:.2f}, {high:.2f}]", flush=True)


def main(args: SamplingSpeed) -> None:
    """Measures and prints."""
    if args.threads:  # before JAX and PyTorch count the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.model:
        solvers(args)
    for name in args.beside:
        missing = [part for part in ("torch", PACKAGES[name]) if importlib.util.find_spec(part) is None]
        if missing:
            print(f"{' and '.join(missing)} not installed: no comparison", file=sys.stderr)
        else:
            beside(name, args)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    runtime.configure()
    main(tyro.cli(SamplingSpeed, description=__doc__))
