"""One of two processes that train the tiny system together: WORKDIR PORT PROCESS; the second stops itself at step 3."""

import os
import signal
import sys
from pathlib import Path

import jax
from PIL import Image

from reimagen_jax.training.loop import train
from tests.training.tiny_system import Regression, dataset, experiment


def main(workdir: Path, port: str, process: int) -> None:
    """Trains until SIGTERM, which only the second process receives."""
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    share = slice(process * 8, process * 8 + 8)
    batches = dataset().map(lambda batch: jax.tree.map(lambda leaf: leaf[share], batch))

    def on_sample(step, ema):
        if process == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        path = workdir / f"sample{process}.png"
        Image.new("RGB", (4, 4)).save(path)
        return path

    config = experiment(num_steps=6, fsdp=2, sample_every=3)
    outcome = train(config, workdir, Regression(), batches, on_sample=on_sample)
    print(f"process {process} of {jax.process_count()}: step {outcome.step}, {outcome.stopped!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
