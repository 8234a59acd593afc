"""One of several processes that train the tiny system together: WORKDIR NUM_STEPS STOP_AT.

They find each other by their environment. At the sample of step STOP_AT (0: never) the last one tells itself to stop.
"""

import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from reimagen_jax import stores
from reimagen_jax.errors import UserError
from reimagen_jax.training import distributed
from reimagen_jax.training.loop import train
from tests.training.tiny_system import Regression, dataset, experiment


def main(workdir: Path, num_steps: int, stop_at: int) -> None:
    """Trains on this process's share of every batch."""
    distributed.start()
    index, count = jax.process_index(), jax.process_count()
    share = slice(index * 16 // count, (index + 1) * 16 // count)
    batches = dataset().map(lambda batch: jax.tree.map(lambda leaf: leaf[share], batch))

    def on_sample(step, ema):
        if step == stop_at and index == count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        picture = distributed.from_first_process(np.full((4, 6, 3), step + index, np.uint8))
        assert (picture == step).all() and distributed.whole(ema["table"]).shape == (128, 33)
        path = workdir / f"{step}.png"
        if index == 0:
            with path.open("wb") as file:
                Image.fromarray(picture).save(file, format="PNG")
        return path

    config = experiment(num_steps=num_steps, fsdp=2, sample_every=3, log_every=5, accumulate=2)
    try:
        outcome = train(config, workdir, Regression(), batches, on_sample=on_sample)
    except UserError as error:
        print(f"process {index} of {count}: {error}")
        sys.exit(2)
    print(f"process {index} of {count}: step {outcome.step}, {outcome.stopped!r}")


if __name__ == "__main__":
    main(stores.place(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
