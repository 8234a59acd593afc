"""EntityWorld: an endless, procedural EntityDrawBench.

Entities of five categories have a look, which only images tell, and a name, which says nothing about it; scenes have
attributes that captions tell. So a model can draw an entity that it has never seen only from retrieved images.
    looks, names    index -> look, name
    scenes          scene attributes, captions
    shapes          the primitive and the painter
    bodies, places  look -> drawing, scene -> drawing
    render          (look, scene, resolution) -> image
    dataset         a world: entities with their frequencies, splits, examples
"""

from reimagen_jax.data.entityworld.dataset import World
from reimagen_jax.data.entityworld.looks import (
    CATEGORIES,
    LOOK_PARAMETERS,
    NUM_PARAMETERS,
    Parameter,
    describe_look,
    entity_look,
    entity_looks,
    sample_looks,
)
from reimagen_jax.data.entityworld.names import entity_name
from reimagen_jax.data.entityworld.render import render, render_batch
from reimagen_jax.data.entityworld.scenes import SCENE_PARAMETERS, Scene, caption, describe_scene, sample_scenes

__all__ = [
    "CATEGORIES",
    "LOOK_PARAMETERS",
    "NUM_PARAMETERS",
    "SCENE_PARAMETERS",
    "Parameter",
    "Scene",
    "World",
    "caption",
    "describe_look",
    "describe_scene",
    "entity_look",
    "entity_looks",
    "entity_name",
    "render",
    "render_batch",
    "sample_looks",
    "sample_scenes",
]
