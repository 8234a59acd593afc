"""What tools/bench.py measures: a stage's training step and drawing, compilation, and the base U-Net to be compared.

Model FLOPs are counted from the jaxpr (reimagen_jax/preflight/flops.py): products and convolutions of the loss, times
3 for training; what rematerialisation repeats is not counted. The peak is the vendor's for bfloat16, or, on a CPU, what
float32 matrix products reach in the same run. Every time is a median over interleaved rounds, after one that does not
count.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax import sharding
from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.diffusion.sampler import image_keys
from reimagen_jax.diffusion.settings import SuperResolutionConfig
from reimagen_jax.encoders.settings import TextConfig
from reimagen_jax.nets.unet import Condition, UNet
from reimagen_jax.preflight import flops
from reimagen_jax.preflight.programs import train_program
from reimagen_jax.systems.reimagen.condition import Batch, Inputs
from reimagen_jax.systems.reimagen.presets import RE_IMAGEN_64, RE_IMAGEN_64_SMALL, RE_IMAGEN_256, RE_IMAGEN_1024
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig, TriplesConfig
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.training import parallel
from reimagen_jax.training.state import init_state
from reimagen_jax.training.step import make_optimizer, train_step

PEAKS = {
    # Dense bfloat16 FLOP/s. NVIDIA's data sheets of the SXM boards; docs.cloud.google.com/tpu/docs for TPUs.
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""By how `device_kind` begins; the longest that fits."""

Stage = Literal["base", "base-small", "sr256", "sr1024"]
STAGES = {
    "base": (RE_IMAGEN_64, 64),
    "base-small": (RE_IMAGEN_64_SMALL, 64),
    "sr256": (RE_IMAGEN_256, 256),
    "sr1024": (RE_IMAGEN_1024, 256),
}
"""Network, and the side of the images that it is trained on."""

Times = dict[str, float]
"""`seconds` by the clock, `cpu_seconds` of this process."""


def experiment(stage: Stage, small: bool, batch: int) -> Experiment:
    """The stage to time: the preset itself, or 1/8 as wide, with one block a level, and images of half or a quarter."""
    (unet, side), text = STAGES[stage], TextConfig(max_bytes=512, stride=4, width=1024, depth=8)
    if small:
        levels = tuple(
            replace(level, width=level.width // 8, blocks=1, attention_every=1, head_width=level.head_width and 16)
            for level in unet.levels
        )
        unet = replace(
            unet,
            levels=levels,
            groups=8,
            head_width=16,
            cond_width=256,
            text_width=128,
            time_features=unet.time_features and 64,
            dtype="float32",
            remat="none",
        )
        text, side = TextConfig(max_bytes=128, width=128, depth=2), {64: 32, 256: 64}[side]
    enlarges, crops = stage.startswith("sr"), stage == "sr1024"
    whole = 4 * side if crops else side
    return Experiment(
        name=f"{stage}{' (small)' if small else ''}",
        system=ReImagenConfig(
            resolution=whole,
            unet=unet,
            text=text,
            super_resolution=SuperResolutionConfig(whole // 4, side if crops else 0) if enlarges else None,
            sampler=GuidedSamplerConfig(thresholding="dynamic"),
        ),
        data=TriplesConfig(batch_size=batch, num_neighbours=0 if crops else 2),
        train=TrainConfig(optimizer="adamw" if enlarges or small else "adafactor"),
    )


def timed(actions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """The time of each action, which has to wait for its own end."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, act in actions.items():
            clock, cpu = time.perf_counter(), time.process_time()
            act()
            if number:
                measured[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {
        name: dict(zip(("seconds", "cpu_seconds"), map(float, np.median(times, axis=0)), strict=True))
        for name, times in measured.items()
    }


def ratio(slow: Times, fast: Times) -> Times:
    """slow / fast, by the clock and in CPU time."""
    return {name: slow[name] / fast[name] for name in slow}


class Trainer:
    """A system's training step over all devices: `advance` takes one and waits for it."""

    def __init__(self, system: Any, config: Experiment, batch: Any):
        mesh, optimizer, key = sharding.make_mesh(1), make_optimizer(config.train), jax.random.key(0)

        def init() -> Any:
            return init_state(system, optimizer, key, config.train)

        abstract = parallel.abstract_state(init, mesh)
        step = train_step(parallel.Gathered(system, mesh), optimizer, config.train)
        self.batch, self.key = jax.device_put(batch, sharding.batch_sharding(mesh)), key
        self.program = parallel.jit_step(step, abstract, mesh).lower(abstract, self.batch, key).compile()
        self.state = parallel.sharded_init(init, abstract)

    def advance(self) -> None:
        self.state, metrics = self.program(self.state, self.batch, self.key)
        jax.block_until_ready((self.state, metrics))


def stage_figures(config: Experiment, rounds: int, sampler_steps: int) -> dict[str, Any]:
    """Training and drawing of one stage on this device."""
    system, batch_size, devices = ReImagen(config), config.data.batch_size, len(jax.devices())
    batch = random_batch(config)
    trainer = Trainer(system, config, batch)
    step = timed({"train": trainer.advance}, rounds)["train"]
    memory = peak_memory(trainer.program)
    peak, source, peak_of_cpu = device_peak(rounds)
    one = jax.tree.map(lambda leaf: leaf[:1], batch)
    model_flops = flops.TRAINING * flops.count(system.loss, trainer.state.params, one, trainer.key)
    rate = model_flops * batch_size / devices / step["seconds"]
    params = trainer.state.averaged
    del trainer  # its moments and gradients, for the room that drawing takes
    drawing = timed(samplers(system, params, batch, sampler_steps), max(rounds // 2, 1))
    figures = {
        "device": f"{devices} x {jax.devices()[0].device_kind}, JAX {jax.__version__}",
        "peak_flops": peak,
        "peak_source": source,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "batch": batch_size,
        "dtype": config.system.unet.dtype,
        "step": step,
        "images_per_second": batch_size / step["seconds"],
        "model_flops_per_image": model_flops,
        "model_flops_per_second": rate,
        "mfu": rate / peak if peak else None,
        "mfu_of_cpu": model_flops * batch_size / step["cpu_seconds"] / peak_of_cpu if peak_of_cpu else None,
        "peak_memory": memory,
        "drawing": {name: {key: t / batch_size for key, t in times.items()} for name, times in drawing.items()},
        "sampler_steps": sampler_steps,
    }
    if "k = 2" in drawing:
        figures["neighbours_cost"] = ratio(drawing["k = 2"], drawing["k = 0"])
    return figures


def random_batch(config: Experiment) -> Batch:
    """Noise for images, and captions of full length."""
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == bool:
            return np.ones(leaf.shape, bool)
        return rng.integers(1, 256, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(fill, ReImagen(config).batch_spec(config.data.batch_size))


def samplers(system: ReImagen, params: Any, batch: Batch, steps: int) -> dict[str, Callable[[], Any]]:
    """Functions that draw a batch of images with all its neighbours, and with none."""
    config, B = system.config, len(batch.tokens_BL)
    settings, keys, low = replace(system.settings, num_steps=steps), image_keys(0, range(B)), None
    if system.model.super_resolution is not None:
        # A stage that is trained on crops draws images of the crops' size here.
        side = system.model.train_resolution // system.model.factor
        low = jnp.zeros((B, side, side, 3), jnp.uint8)
    numbers = [jnp.full(B, number) for number in (0.5, 3.0, 3.0)]
    neighbours = batch.nbr_image_BKHWC, batch.nbr_tokens_BKL, batch.nbr_mask_BK

    @jax.jit
    def draw(params: Any, inputs: Inputs) -> jax.Array:
        return system.sample(params, inputs, keys, settings)

    def asked(k: int) -> Inputs:
        shown = jax.tree.map(lambda leaf: leaf[:, :k], neighbours)
        return jax.tree.map(jnp.asarray, Inputs(batch.tokens_BL, *shown, *numbers, low))

    inputs = {f"k = {k}": asked(k) for k in sorted({0, config.data.num_neighbours})}
    return {name: lambda one=one: draw(params, one).block_until_ready() for name, one in inputs.items()}


def peak_memory(program: Any) -> dict[str, Any]:
    """Bytes on one device: the most so far in this process, where the device counts, else as the compiler planned."""
    plan = program.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    planned = {"held": held, "planned": held + plan.temp_size_in_bytes}
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"bytes": stats["peak_bytes_in_use"], "source": "measured", **planned}
    return {"bytes": planned["planned"], "source": "the compiler's plan", **planned}


def device_peak(rounds: int) -> tuple[float, str, float]:
    """FLOP/s of one device, where that comes from, and, of a CPU, FLOP per second of its own time.

    From the table, or measured where the device is a CPU; 0 where it is not known, or is no CPU.
    """
    device = jax.devices()[0]
    known = [kind for kind in PEAKS if device.device_kind.startswith(kind)]
    if known:
        return PEAKS[max(known, key=len)], "bfloat16, data sheet", 0.0
    if device.platform != "cpu":
        return 0.0, "not in the table", 0.0
    side = 2048
    x, multiply = jnp.ones((side, side), jnp.float32), jax.jit(lambda x: x @ x)
    times = timed({"product": lambda: multiply(x).block_until_ready()}, max(rounds, 5))["product"]
    source = f"float32 matrix products of side {side}, measured in this run"
    return 2 * side**3 / times["seconds"], source, 2 * side**3 / times["cpu_seconds"]


def compile_figures(config: Experiment) -> dict[str, float]:
    """Seconds from the training step's trace to its program, in this process and with its cache."""
    program = train_program(config, sharding.make_mesh(1))
    jnp.zeros(1).block_until_ready()  # the device is up
    start = time.perf_counter()
    lowered = program.jitted.lower(*program.arguments)
    traced = time.perf_counter()
    lowered.compile()
    return {"trace": traced - start, "compile": time.perf_counter() - traced}


@dataclass(frozen=True)
class BareUNet:
    """Our base U-Net alone, on given text embeddings: what imagen-pytorch's is compared with."""

    config: Experiment

    @property
    def unet(self) -> UNet:
        return UNet(self.config.system.unet)

    def init(self, key: jax.Array) -> Any:
        one = jax.tree.map(jnp.asarray, self.example(1))
        return self.unet.init(key, one["x"], one["t"], Condition(one["text"], one["mask"]))["params"]

    def example(self, batch: int) -> dict[str, np.ndarray]:
        """Noise of the right shapes."""
        model = self.config.system
        side, tokens = model.resolution, model.text.max_bytes // model.text.stride
        rng = np.random.default_rng(0)
        return {
            "x": rng.standard_normal((batch, side, side, 3), np.float32),
            "eps": rng.standard_normal((batch, side, side, 3), np.float32),
            "t": rng.random(batch, np.float32),
            "text": rng.standard_normal((batch, tokens, model.text.width), np.float32),
            "mask": np.ones((batch, tokens), bool),
        }

    def predict(self, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return self.unet.apply({"params": params}, batch["x"], batch["t"], Condition(batch["text"], batch["mask"]))

    def guided(self, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        """One denoising step's prediction with classifier-free guidance: one evaluation of a doubled batch."""
        doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batch)
        keep_B = jnp.arange(len(doubled["t"])) < len(batch["t"])
        given, without = jnp.split(self.predict(params, doubled | {"mask": doubled["mask"] & keep_B[:, None]}), 2)
        return without + 3.0 * (given - without)

    def loss(
        self, params: Any, batch: dict[str, jax.Array], key: jax.Array, *, ema: Any = None
    ) -> tuple[jax.Array, dict]:
        """As the other's: mean squared error, the text of one in ten dropped."""
        drop_B = jax.random.bernoulli(key, 0.1, batch["t"].shape)
        prediction = self.predict(params, batch | {"mask": batch["mask"] & ~drop_B[:, None]})
        return jnp.mean((prediction - batch["eps"]) ** 2), {}


def ours_beside(config: Experiment) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
    """Our base U-Net without neighbours, to be compared: what it is, and its steps, which wait for their own end."""
    model, batch_size = config.system, config.data.batch_size
    levels = tuple(replace(level, neighbour_attention=False) for level in model.unet.levels)
    unet = replace(model.unet, levels=levels)
    config = replace(config, system=replace(model, unet=unet), train=replace(config.train, optimizer="adamw"))
    ours = BareUNet(config)
    batch = ours.example(batch_size)
    trainer = Trainer(ours, config, batch)
    guided, one = jax.jit(ours.guided), {name: leaf[:1] for name, leaf in batch.items()}
    facts = {
        "stage": config.name,
        "dtype": unet.dtype,
        "width": levels[0].width,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params)),
        "forward_flops": flops.count(ours.predict, trainer.state.params, one),
        "setting": {
            "side": model.resolution,
            "dim": levels[0].width,
            "blocks": levels[0].blocks,
            "heads": 8,
            "head_width": unet.head_width,
            "text_width": model.text.width,
            "tokens": batch["mask"].shape[1],
            "batch": batch_size,
        },
    }
    return facts, {
        "train": trainer.advance,
        "guided": lambda: guided(trainer.state.averaged, batch).block_until_ready(),
    }
