"""A training run of the tiny system in a process of its own, for tests that kill it: WORKDIR NUM_STEPS WIDTH."""

import sys

from reimagen_jax.training.loop import train
from tests.training.tiny_system import Regression, dataset, experiment

if __name__ == "__main__":
    workdir, num_steps, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = experiment(num_steps=num_steps, checkpoint_every=3, keep_checkpoints=2, fsdp=2)
    outcome = train(config, workdir, Regression(width=width), dataset())
    sys.exit(0 if outcome.stopped is None else 128 + outcome.stopped)
