"""Re-Imagen on EntityWorld at 32 x 32."""

from reimagen_jax.config import DataConfig, DiffusionConfig, Experiment, SamplerConfig, TrainConfig
from reimagen_jax.presets import TEXT_BYTES, UNET_32

config = Experiment(
    name="entityworld32",
    resolution=32,
    unet=UNET_32,
    text=TEXT_BYTES,
    diffusion=DiffusionConfig(prediction="v", time_exponent=0.5),
    sampler=SamplerConfig(solver="ddpm", num_steps=25, text_weight=3.0, neighbour_weight=8.0),
    data=DataConfig(batch_size=16, num_neighbours=2, min_neighbours=1),
    train=TrainConfig(
        num_steps=8_000,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        ema_decay=0.999,
        checkpoint_every=500,
        sample_every=1_000,
    ),
)
