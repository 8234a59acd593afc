"""Opening models, knowledge bases and encoders; prompts and their neighbours."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from reimagen_jax.checked import Natural, checked
from reimagen_jax.encoders import vectors
from reimagen_jax.encoders.vectors import VectorEncoder
from reimagen_jax.errors import require
from reimagen_jax.inference.model import SHIPPED, Model
from reimagen_jax.inference.prompts import Prompt, asking, with_retrieved
from reimagen_jax.retrieval.asking import BY_CAPTION, Asking, Method
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.request import Neighbour


def open_model(path: str | Path = SHIPPED, *, text_encoder: str | Path | None = None, on_host: bool = False) -> Model:
    """Opens a training run, a folder of weights, or the weights in the package (see `Model.open`)."""
    return Model.open(path, text_encoder=text_encoder, on_host=on_host)


def open_knowledge_base(path: str | Path) -> KnowledgeBase:
    """Opens what `reimagen index` wrote."""
    return KnowledgeBase.open(path)


def open_encoder(path: str | Path) -> VectorEncoder:
    """Opens what `reimagen encode-train` wrote, or a CLIP as Hugging Face publishes it."""
    return vectors.open_encoder(path)


def ask(
    base: KnowledgeBase,
    texts: Sequence[str | Prompt],
    *,
    queries: Sequence[str] = (),
    k: int = 2,
    method: Method | None = None,
    references: Sequence[Neighbour] = (),
    ban: Sequence[str] = (),
    resolution: int = 64,
    like: Model | Asking | None = None,
    **how: Any,
) -> list[Prompt]:
    """Prompts with k neighbours each: first the `references`, then what the base finds, fewer where fewer are found.

    The base is asked by `queries`, one for each prompt (an entity's name, say), by fields of the prompts
    (`query_by=("entity", "entity", "caption")` of `Prompt(text, attributes={...})`), or by the prompts themselves.
    Records with a key of `ban` are not found. What else is said of asking is as in `retrieval.asking.Asking`: `where`,
    `where_not`, `match`, `exclude_same`, `near_duplicates`, `floor`, `tie_seed`; what is not, is as the triples of the
    model `like` were asked for. Pictures are decoded at `resolution` pixels; a model of another resolution decodes its
    own. Raises `UserError` for a banned key or a condition that no record has, and where the base has no such `method`.
    """
    checked(k, Natural, "k")
    require(len(queries) in (0, len(texts)), f"{len(queries)} queries for {len(texts)} prompts: give one for each")
    prompts = [Prompt(text) if isinstance(text, str) else text for text in texts]
    if queries:
        prompts = [replace(prompt, query=query) for prompt, query in zip(prompts, queries, strict=True)]
    before = like.config.data.asked if isinstance(like, Model) else like
    known = [item.name for item in fields(Asking)]
    unknown = how.keys() - set(known)
    require(not unknown, f"ask: there is no {min(unknown, default='')}, but {', '.join(known)}")
    how = {name: tuple(value) if isinstance(value, list) else value for name, value in how.items()}
    asked = replace(before or BY_CAPTION, **({} if method is None else {"method": method}), **how)
    prompts = asking(prompts, asked, strict="query_by" in how, floor_of_texts="floor" in how)
    return with_retrieved(prompts, base, k, resolution, given=references, ban=ban, how=asked)
