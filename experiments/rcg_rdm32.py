r"""The RDM of RCG on EntityWorld at 32 x 32: the representation of an image, drawn out of nothing.

    reimagen train experiments/rcg_rdm32.py --workdir runs/rcg/rdm --data.records runs/world/train \
        --init.weights runs/rcg/encoder

Records and encoder by rcg_moco32.py. Of a class: --data.class-by category, then guidance by --text-weight. Other
encoders, to compare with: --init.weights names that of a CLIP (dalle2_clip32.py), or of a supervised run. Sizes, as the
paper varies them: --mlp.depth 3, --mlp.width 256.

Then images, by a generator of the same encoder (rcg_generator32.py, rcg_mage32.py):

    reimagen rcg draw --model runs/rcg/rdm --cascade runs/rcg/generator --num-images 16 --out runs/rcg/drawn

The published sampler: --solver ddim --ddim-noise 1 --steps 250 --spacing ldm.
"""

from reimagen_jax.config import Experiment, InitConfig, TrainConfig
from reimagen_jax.systems.moco.presets import MOCO_32
from reimagen_jax.systems.rcg.presets import OURS, RDM_32
from reimagen_jax.systems.rcg.settings import FROZEN, PicturesConfig, RdmConfig

config = Experiment(
    name="rcg_rdm32",
    system=RdmConfig(encoder=MOCO_32, mlp=RDM_32, sampler=OURS),
    data=PicturesConfig(batch_size=256, validation_share=0.02),
    init=InitConfig(adopt=True),
    train=TrainConfig(
        num_steps=10_000,
        learning_rate=5e-4,
        rates=(FROZEN,),
        warmup_steps=200,
        decay="tail",
        beta2=0.99,
        weight_decay=0.01,
        ema_decay=0.999,
        sample_every=0,
    ),
)
