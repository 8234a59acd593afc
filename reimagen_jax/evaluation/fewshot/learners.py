"""Who learns from few pictures: a line through the features of a given encoder, and a small network from nothing.

probe   logistic regression (scikit-learn) on vectors of root mean square 1; one strength of regularisation, the
        same for all: there is nothing to choose it by                                                          (1)
net     three times (3 x 3 convolution of stride 2, group norm, relu), the mean over pixels, a product; Adam for so
        many steps, each of all pictures or, where there are more, of 32 of them, a cosine's rate                (2)
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8
from sklearn.linear_model import LogisticRegression

from reimagen_jax import randomness

Learn = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]
"""(what to learn from, its classes, what is asked about, classes, seed) -> the class that it says of each."""
STRENGTH = 1.0
WIDTHS = (32, 64, 128)
BATCH, RATE = 32, 3e-3


@dataclass(frozen=True)
class Learner:
    """Somebody who learns, and what of."""

    learn: Learn
    reads: Literal["vectors_ND", "pixels_NHWC"]
    """Of a pool."""
    facts: Mapping[str, Any]
    """All that what it says depends on but for what it is given."""


def probe(x_ND: Float[np.ndarray, "n d"], y_N: np.ndarray, q_QD: np.ndarray, ways: int, seed: int) -> np.ndarray:
    """(1)"""
    del ways, seed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # one shot of many is meant so
        line = LogisticRegression(C=STRENGTH, max_iter=500).fit(_scaled(x_ND), y_N)
    return line.predict(_scaled(q_QD))


def _scaled(x_ND: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    x_ND = np.asarray(x_ND, np.float64)
    return x_ND / np.sqrt(np.maximum((x_ND**2).mean(axis=1, keepdims=True), 1e-24))


def net(steps: int) -> Learn:
    """(2)"""

    def learn(x: UInt8[np.ndarray, "n s s 3"], y_N: np.ndarray, q: np.ndarray, ways: int, seed: int) -> np.ndarray:
        init, step, say = _programs(ways, steps)
        rng = np.random.default_rng(seed)
        state = init(randomness.key(seed), x[:1])
        for _ in range(steps):
            rows = rng.permutation(len(x))[:BATCH]
            state = step(state, x[rows], y_N[rows].astype(np.int32))
        padded = np.concatenate([q, np.zeros((-len(q) % BATCH, *q.shape[1:]), np.uint8)])
        said = [np.asarray(say(state, padded[i : i + BATCH])) for i in range(0, len(padded), BATCH)]
        return np.concatenate(said)[: len(q)]

    return learn


class SmallNet(nn.Module):
    """The network of (2): uint8 pictures to logits."""

    ways: int

    @nn.compact
    def __call__(self, image_BHWC: UInt8[Array, "b h w 3"]) -> Float[Array, "b n"]:
        x = image_BHWC.astype(jnp.float32) / 127.5 - 1.0
        for width in WIDTHS:
            x = nn.relu(nn.GroupNorm(8)(nn.Conv(width, (3, 3), strides=(2, 2))(x)))
        return nn.Dense(self.ways)(x.mean(axis=(1, 2)))


@cache
def _programs(ways: int, steps: int) -> tuple[Callable, Callable, Callable]:
    """Compiled once for each number of classes."""
    network, optimizer = SmallNet(ways), optax.adam(optax.cosine_decay_schedule(RATE, steps))

    @jax.jit
    def init(key, x):
        params = network.init(key, x)
        return params, optimizer.init(params)

    @jax.jit
    def step(state, x, y_B):
        params, moments = state

        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, x), y_B).mean()

        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, which our tests forbid
            updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    @jax.jit
    def say(state, x) -> Int[Array, " b"]:
        return network.apply(state[0], x).argmax(axis=-1)

    return init, step, say
