r"""The encoder of RCG on EntityWorld at 32 x 32: MoCo-v3 without labels, what RDM and pixel generators hold frozen.

    reimagen prepare --out runs/world/train --where role=train --resolution 32
    reimagen train experiments/rcg_moco32.py --workdir runs/rcg/moco --data.records runs/world/train
    reimagen encode-train runs/world/train --from-run runs/rcg/moco --out runs/rcg/encoder \
        --probe category scene.place scene.time scene.position scene.size look.1

To compare with, an encoder that has learned the entities by name: --objective supervised --data.class-by entity.

Views differ by less than MoCo-v3's of photographs: colours are what tells EntityWorld's entities apart, so they are
changed a little and never taken away, crops show a third of the image at least, and none is mirrored, for left and
right are told of a scene. The temperature is half of MoCo-v3's: its loss looks more at images that are nearly alike.

Hardware: 2 CPU cores, 75 to 250 images a second beside other work: 700 steps (--train.num-steps 700) in 20 minutes. A
line then tells from features (those of random weights) of 2,000 held-out records: category 0.70 (0.43), place 1.00
(0.88), time 1.00 (1.00), position 0.95 (0.65), size 0.95 (0.81), the first parameter of the look 0.67 (0.42). Features
were taken for representations (--network.no-projected): the head gives up what views differ in. After 200 steps of 128
images, from features (representations; those of random weights): category 0.53 (0.39; 0.36), place 0.99 (0.97; 0.74),
position 0.75 (0.41; 0.53), the first parameter of the look 0.60 (0.55; 0.34). With MoCo-v3's temperature of 0.2 and
mirrored: 0.50, 0.99, 0.68 and 0.58 from features; 0.38, 0.91, 0.36 and 0.52 from representations.
"""

from reimagen_jax.config import Experiment, TrainConfig
from reimagen_jax.systems.moco.presets import MOCO_32
from reimagen_jax.systems.moco.settings import AugmentConfig, MocoConfig, MocoData

config = Experiment(
    name="rcg_moco32",
    system=MocoConfig(
        MOCO_32,
        predictor_width=512,
        temperature=0.1,
        augment=AugmentConfig(
            crop=(0.35, 1.0),
            flip=0.0,
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
