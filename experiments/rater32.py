"""The rater of EntityWorld at 32 x 32: a network that reads off an image what it shows, trained on fresh renders.

    reimagen train experiments/rater32.py --workdir runs/rater_run
    reimagen rater train --from-run runs/rater_run --out runs/rater

`reimagen rater train --out runs/rater` is both in one command, with these settings; so the rater that comes with the
package was made. Each step renders its batch on its device: there are no data to prepare.

Hardware: 2 CPU cores, 5 CPU-minutes (350 renders a second beside other work), 1.3 GiB. Reached, of softened
renders: 0.9998 [0.9991, 0.9999] called faithful, 0.9999 aligned, no parameter read right in less than 0.9994; the loss
ends at 0.008.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.systems.rater.settings import RaterConfig, RaterSystemConfig, RenderData

config = Experiment(
    name="rater32",
    system=RaterSystemConfig(network=RaterConfig(resolution=32)),
    data=RenderData(batch_size=64),
    train=TrainConfig(
        num_steps=4_000,
        learning_rate=2e-3,
        warmup_steps=120,
        clip_norm=1e9,
        ema_decay=0.0,
        log_every=100,
        checkpoint_every=500,
        sample_every=0,
    ),
)
