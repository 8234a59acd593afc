"""Re-Imagen on EntityWorld at 32 x 32."""

from reimagen_jax.config import (
    DataConfig,
    DiffusionConfig,
    Experiment,
    Level,
    SamplerConfig,
    TextConfig,
    TrainConfig,
    UNetConfig,
)

config = Experiment(
    name="entityworld32",
    resolution=32,
    unet=UNetConfig(
        levels=(
            Level(48, 1),
            Level(96, 1, self_attention=True, neighbour_attention=True),
            Level(160, 1, self_attention=True, neighbour_attention=True),
        ),
        patch=2,
        head_width=32,
        cond_width=192,
    ),
    text=TextConfig(max_bytes=80, width=128, depth=2),
    diffusion=DiffusionConfig(prediction="v"),
    sampler=SamplerConfig(solver="ddim", num_steps=25),
    data=DataConfig(batch_size=16, num_neighbours=2, min_neighbours=1),
    train=TrainConfig(
        num_steps=9_000,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        ema_decay=0.999,
        checkpoint_every=500,
        sample_every=0,
    ),
)
