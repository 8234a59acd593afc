"""The smallest complete Re-Imagen, for tests: compiles in seconds, has every part."""

from reimagen_jax.config import DataConfig, Experiment, Level, SamplerConfig, TextConfig, TrainConfig, UNetConfig

TINY = Experiment(
    name="tiny",
    resolution=16,
    unet=UNetConfig(
        levels=(Level(8, 1), Level(16, 1, self_attention=True, neighbour_attention=True)),
        patch=2,
        head_width=8,
        groups=4,
        cond_width=16,
    ),
    text=TextConfig(max_bytes=32, width=16, depth=1, head_width=8),
    sampler=SamplerConfig(num_steps=3),
    data=DataConfig(batch_size=8, num_neighbours=2),
    train=TrainConfig(num_steps=4, warmup_steps=0, log_every=1, checkpoint_every=2, sample_every=0),
)
