"""A file with an Inception of FID's plan, an eighth of its width, with random weights, as PyTorch wrote files then."""

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from reimagen_jax.encoders.inception import LEAST, Inception
from reimagen_jax.encoders.inception_published import source
from tests.pretrained.torch_files import Stored, tensor, write_old

SHRINK = 8


def random_tensors(seed=0, shrink=SHRINK):
    """By their names in the file, laid out as PyTorch has them."""
    picture = jax.ShapeDtypeStruct((1, LEAST, LEAST, 3), np.float32)
    shapes = jax.eval_shape(Inception(shrink).init, jax.random.key(0), picture)["params"]
    rng, found = np.random.default_rng(seed), {}
    for path, leaf in flatten_dict(shapes, sep="/").items():
        there = source(path)
        shape = leaf.shape if there.axes is None else tuple(leaf.shape[there.axes.index(i)] for i in range(leaf.ndim))
        if path.endswith(("/var", "/scale")):
            value = rng.uniform(0.5, 1.5, shape)
        elif leaf.ndim == 1:
            value = rng.uniform(-0.3, 0.3, shape)
        else:
            value = rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
        found[there.name] = value.astype(np.float32)
    return found


def write_inception(path, tensors=None):
    """Writes the file; `tensors` other than random ones."""
    tensors = random_tensors() if tensors is None else tensors
    table = {
        name: tensor(Stored(array, str(i)), array.shape, tuple(step // array.itemsize for step in array.strides))
        for i, (name, array) in enumerate(tensors.items())
    }
    return write_old(path, table)
