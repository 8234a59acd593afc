r"""The encoder of RCG on EntityWorld at 32 x 32: MoCo-v3 without labels, what RDM and pixel generators hold frozen.

    reimagen prepare --out runs/world/train --where role=train --resolution 32
    reimagen train experiments/rcg_moco32.py --workdir runs/rcg/moco --data.records runs/world/train
    reimagen encode-train runs/world/train --from-run runs/rcg/moco --out runs/rcg/encoder \
        --probe category scene.place scene.time scene.position scene.size

To compare with, an encoder that has learned the entities by name: --objective supervised --data.class-by entity.

Views differ by less than MoCo-v3's of photographs: colours are what tells EntityWorld's entities apart, so they are
changed a little and never taken away, and crops show a third of the image at least.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.systems.moco.presets import MOCO_32
from reimagen_jax.systems.moco.settings import AugmentConfig, MocoConfig, MocoData

config = Experiment(
    name="rcg_moco32",
    system=MocoConfig(
        MOCO_32,
        predictor_width=512,
        temperature=0.2,
        augment=AugmentConfig(
            crop=(0.35, 1.0),
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
            hue=0.02,
            grey=0.0,
            blur=(0.0, 0.0),
            solarise=(0.0, 0.0),
        ),
    ),
    data=MocoData(batch_size=256, validation_share=0.02),
    train=TrainConfig(
        num_steps=3_000,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="tail",
        weight_decay=0.05,
        beta2=0.98,
        ema_decay=0.99,
        log_every=50,
        checkpoint_every=250,
        sample_every=0,
        validate_every=250,
    ),
)
