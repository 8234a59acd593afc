"""What `sample`, `sweep` and `demo` need: tiny weights, a small EntityWorld with its knowledge base, a tiny rater."""

import jax
import numpy as np
import pytest

from reimagen_jax.data.entityworld import World
from reimagen_jax.data.records import write_records
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.encoders import dual
from reimagen_jax.encoders.settings import DualConfig
from reimagen_jax.evaluation.rater import Rater
from reimagen_jax.inference.export import save_weights
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.rater.net import RaterConfig, RaterNet
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.tiny import TINY, TINY_CROPS, TINY_SR, random_params
from tests.trained import few_devices

SMALL_WORLD = World(num_entities=20, num_images=120)


@pytest.fixture(scope="module", name="few_devices")
def trained_on_few_devices():
    """What a file's commands train."""
    with few_devices():
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A folder of weights, away from the zeros that a network starts with."""
    folder = tmp_path_factory.mktemp("model") / "weights"
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    save_weights(folder, TINY, jax.tree.map(lambda leaf: leaf + 0.05, params))
    return folder


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """Folders of weights of the super-resolution stages after `model`: 16 to 32, and 32 to 64 pixels."""
    folder = tmp_path_factory.mktemp("stages")
    for config in (TINY_SR, TINY_CROPS):
        save_weights(folder / config.name, config, random_params(config))
    return [folder / TINY_SR.name, folder / TINY_CROPS.name]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A folder with an encoder of zeros, which reads 16 pixels."""
    folder, config = tmp_path_factory.mktemp("encoder"), DualConfig(16, 8, 8)
    shapes = jax.eval_shape(lambda key: dual.init(config, key), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    dual.DualEncoder(config, zeros, {"measured": {}}).save(folder)
    return folder


@pytest.fixture(scope="session")
def rater(tmp_path_factory):
    """A folder with an untrained rater."""
    folder = tmp_path_factory.mktemp("rater")
    config = RaterConfig(16, look_widths=(8, 8, 8), look_hidden=8, scene_widths=(4, 4), scene_hidden=8)
    params = jax.jit(RaterNet(config).init)(jax.random.key(0), jax.numpy.zeros((1, 16, 16, 3)))["params"]
    share = [0.5, 0.4, 0.6]
    measured = {"num_images": 64, "faithful": share, "aligned": share, "parameters": {"category": share}}
    Rater(config, params, measured).save(folder)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with `records` and their knowledge base, `index`."""
    folder = tmp_path_factory.mktemp("world")
    source = WorldSource(SMALL_WORLD, resolution=16)
    settings = {"world": vars(SMALL_WORLD), "resolution": 16}
    records = write_records(source.items(), folder / "records", source=source.name, settings=settings)
    KnowledgeBase.build(records, folder / "index")
    return folder
