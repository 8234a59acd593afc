"""What drawing with networks of published size costs here: seconds and memory; random weights of the real shapes.

    python tools/sampling_cost.py --scratch /tmp/t5small [--encoder small] [--steps 2] [--images 1]

One process does what `reimagen sample` does, one thing after the other: a T5 encodes the texts and is given back, CLIP
ViT-B/32 encodes an image (what dense retrieval needs) and is given back, and a base stage of DeepFloyd IF's medium size
(374M parameters) draws with k = 2 neighbours. The memory told is the process's own, as in encoder_cost.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import encoder_cost  # beside this file
import tyro


@dataclass(frozen=True)
class SamplingCost:
    """Measure encoding and drawing."""

    scratch: Path
    """Folder of the T5's checkpoint, written when it is empty; it is left there."""
    encoder: Literal["small", "base", "large", "xl", "xxl"] = "small"
    """T5 v1.1."""
    steps: int = 2
    """Of the sampler; the time grows with it, the memory does not."""
    images: int = 1
    """Drawn at once."""


def main(args: SamplingCost) -> None:
    """Encodes, draws; prints a line for each."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from reimagen_jax.config import Experiment
    from reimagen_jax.diffusion.sampler import image_keys
    from reimagen_jax.encoders import clip, t5
    from reimagen_jax.encoders.texts import Embedded
    from reimagen_jax.pretrained.safetensors_reader import open_checkpoint
    from reimagen_jax.systems.reimagen.condition import Inputs
    from reimagen_jax.systems.reimagen.presets import IF_I, IF_PROCESS, IF_TEXT
    from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig, ReImagenConfig
    from reimagen_jax.systems.reimagen.system import ReImagen

    B, K, L = args.images, 2, IF_TEXT.frozen.max_tokens
    width = t5.V1_1[args.encoder].width
    if not (args.scratch / "model.safetensors.index.json").is_file():
        abstract = t5.abstract_params(t5.V1_1[args.encoder], "bfloat16")
        encoder_cost.write_random(args.scratch, abstract, t5.V1_1[args.encoder], "bfloat16")
    with encoder_cost.watched(f"T5 v1.1 {args.encoder}: read, compile, encode {B * (1 + K)} texts") as report:
        params = t5.load_params(open_checkpoint(args.scratch), t5.V1_1[args.encoder], "bfloat16")
        encode = t5.block_by_block(t5.T5Encoder(t5.V1_1[args.encoder], "bfloat16"))
        tokens = jax.random.randint(jax.random.key(0), (B * (1 + K), L), 2, t5.V1_1[args.encoder].vocabulary)
        text_NLD = np.asarray(encode(params, tokens, jnp.ones(tokens.shape, bool)).astype(jnp.bfloat16))
        for leaf in jax.tree.leaves(params):
            leaf.delete()
    print(report(), flush=True)

    with encoder_cost.watched("CLIP ViT-B/32: make, compile, encode an image") as report:
        config = clip.clip_config({"model_type": "clip", "text_config": {}, "vision_config": {}})  # left out: ViT-B/32
        network = clip.Clip(config)
        params = jax.jit(lambda key: network.init(key, method=clip.Clip.everything))(jax.random.key(0))
        image = jnp.zeros((1, config.image.resolution, config.image.resolution, 3))
        jax.block_until_ready(jax.jit(lambda p, x: network.apply(p, x, method=clip.Clip.images))(params, image))
        for leaf in jax.tree.leaves(params):
            leaf.delete()
    print(report(), flush=True)

    text = replace(IF_TEXT, frozen=replace(IF_TEXT.frozen, width=width))
    sampler = GuidedSamplerConfig(solver="ddpm", num_steps=args.steps, thresholding="dynamic")
    model = ReImagenConfig(resolution=64, unet=IF_I, text=text, diffusion=IF_PROCESS, sampler=sampler)
    config = Experiment("if_medium", model)
    system = ReImagen(config)
    with encoder_cost.watched("network: make") as report:
        params = jax.block_until_ready(jax.jit(system.init)(jax.random.key(0)))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{report()}; {size / 1e6:.0f}M parameters", flush=True)
    embedded = Embedded(text_NLD, np.ones(text_NLD.shape[:2], bool))
    prompts = jax.tree.map(lambda leaf: leaf[:B], embedded)
    captions = jax.tree.map(lambda leaf: leaf[B:].reshape(B, K, *leaf.shape[1:]), embedded)
    neighbours = np.zeros((B, K, 64, 64, 3), np.uint8)
    numbers = (np.full(B, number, np.float32) for number in (0.5, 7.0, 7.0))
    inputs = Inputs(prompts, neighbours, captions, np.ones((B, K), bool), *numbers)
    draw = jax.jit(lambda params, inputs: system.sample(params, inputs, image_keys(0, range(B)), sampler))
    with encoder_cost.watched(f"compile, then draw {B} x {args.steps} steps") as report:
        jax.block_until_ready(draw(params, inputs))
    print(report(), flush=True)
    with encoder_cost.watched(f"draw {B} x {args.steps} steps") as report:
        jax.block_until_ready(draw(params, inputs))
    print(report(), flush=True)


if __name__ == "__main__":
    main(tyro.cli(SamplingCost, description=__doc__))
