"""Where image-text pairs come from: EntityWorld, a folder, Parquet files, webdataset shards, COCO, or a TFDS data set.

A source yields, in a fixed order, an `ImageText` for what is usable and a `Problem` for what is not.
"""

from reimagen_jax.data.sources.base import Entry, Place, Source
from reimagen_jax.data.sources.choose import Reading, open_source
from reimagen_jax.data.sources.coco import CocoSource
from reimagen_jax.data.sources.fields import Captions
from reimagen_jax.data.sources.folder import FolderSource
from reimagen_jax.data.sources.parquet import ParquetSource
from reimagen_jax.data.sources.tfds_source import TfdsSource
from reimagen_jax.data.sources.webdataset import WebdatasetSource
from reimagen_jax.data.sources.where import Where
from reimagen_jax.data.sources.world import WorldSource

__all__ = [
    "Captions",
    "CocoSource",
    "Entry",
    "FolderSource",
    "ParquetSource",
    "Place",
    "Reading",
    "Source",
    "TfdsSource",
    "WebdatasetSource",
    "Where",
    "WorldSource",
    "open_source",
]
