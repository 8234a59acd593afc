"""What is done with a trained encoder of images: its BatchNorms' statistics, and what of an image it lets a line tell.

A linear probe is a logistic regression from vectors to the values of an attribute, fitted to records that the encoder
has learned from and measured on those held out. Beside it: the same for an encoder of random weights, and the share
of the most frequent value.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reimagen_jax import randomness
from reimagen_jax.encoders.representation import Representation
from reimagen_jax.encoders.towers import as_floats
from reimagen_jax.errors import require
from reimagen_jax.progress import track
from reimagen_jax.systems.base import Params
from reimagen_jax.systems.moco.feed import MocoFeed, labels_of
from reimagen_jax.systems.moco.system import MocoBatch

MEASURED_ON = 2**13
"""Records, at most, that statistics are measured on."""
FITTED_TO, PROBED_ON = 2**12, 2**11
"""Records, at most, that a probe is fitted to, and is measured on."""
Reader = Callable[[np.ndarray], MocoBatch]
"""Ids of records to a batch; from memory what it has read before (`MocoFeed.reader`)."""


def completed(feed: MocoFeed, encoder: Representation, params: Params, read: Reader) -> Params:
    """The encoder's parameters with statistics over records that are learned from, as they are: no views of them."""
    B = feed.config.data.batch_size
    ids = np.random.default_rng(feed.config.data.seed).permutation(feed.parts[0])[:MEASURED_ON]
    parts = ids[: len(ids) // B * B].reshape(-1, B)
    batches = track(parts, len(parts), "measuring BatchNorms", "batch")
    return encoder.measured(params, (as_floats(jnp.asarray(read(ids_B).image_BHWC)) for ids_B in batches))


def probes(feed: MocoFeed, params: Params, names: Sequence[str], read: Reader) -> dict[str, Any]:
    """By attribute, the shares of held-out records whose value is told right: from representations, from features, from
    representations of random weights, and by chance. Raises `UserError` where nothing is held out, or an attribute is
    missing or has one value alone."""
    encoder, (learned, held) = Representation(feed.model.network), feed.parts
    require(
        bool(len(held)),
        f"{feed.config.name} holds no records out (data.validation_share 0): a probe is measured on such alone, leave "
        "out --probe",
    )
    rng = np.random.default_rng(feed.config.data.seed)
    fitted, probed = (rng.permutation(ids)[:most] for ids, most in ((learned, FITTED_TO), (held, PROBED_ON)))
    ids = np.concatenate([fitted, probed])
    records = feed.records.fetch(ids.tolist())
    label_N = {name: np.array(labels_of(records, name)) for name in names}
    for name, label in label_N.items():
        require(len(set(label[: len(fitted)])) > 1, f"--probe {name}: all records have the same, {str(label[0])!r}")
    random = completed(feed, encoder, encoder.init(randomness.key(feed.config.train.seed)), read)
    of = {
        "representation": (encoder.represent, params),
        "features": (encoder.features, params),
        "random": (encoder.represent, random),
    }
    vector_ND = {name: _vectors(feed, told, own, ids, read) for name, (told, own) in of.items()}
    found, N = {}, len(fitted)
    for name, label in track(label_N.items(), len(label_N), "probing", "attribute"):
        shares = {of: _probe(x_ND[:N], label[:N], x_ND[N:], label[N:]) for of, x_ND in vector_ND.items()}
        most = Counter(label[:N].tolist()).most_common(1)[0][0]
        found[name] = {**shares, "chance": round(float((label[N:] == most).mean()), 4)}
    return {"fitted_to": N, "held_out": len(probed), "probes": found}


def _vectors(feed: MocoFeed, told: Callable[..., Any], params: Params, ids: np.ndarray, read: Reader) -> np.ndarray:
    """float32 [N, D] of records, batch by batch; the last is filled up."""
    B, params = feed.config.data.batch_size, jax.device_put(params)
    program = jax.jit(lambda params, image_BHWC: told(params, as_floats(image_BHWC)))
    rows = np.resize(ids, -(-len(ids) // B) * B).reshape(-1, B)
    return np.concatenate([np.asarray(program(params, read(ids_B).image_BHWC)) for ids_B in rows])[: len(ids)]


def _probe(x_ND: np.ndarray, label_N: np.ndarray, other_ND: np.ndarray, other_N: np.ndarray) -> float:
    """The share of others whose label is told right."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it has found by then is what is measured
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # of many classes, few of each
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(x_ND, label_N)
    return round(float(line.score(other_ND, other_N)), 4)
