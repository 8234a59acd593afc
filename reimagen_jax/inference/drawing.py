"""What a model draws as a set of pictures, each handed on when its batch is drawn: none is written, few are held.

    index of image s of prompt n of S images each:  n S + s
as `reimagen sample` numbers them, so the pictures are those that it would write.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reimagen_jax.data.pictures import Item, Pictures
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.inference.prompts import PromptSource
from reimagen_jax.systems.request import Request

PART = 256
"""Prompts whose neighbours are held at once."""


def pictures_of(pipeline: Pipeline, asked: PromptSource, num_images: int, model: str | Path) -> Pictures:
    """`num_images` pictures of each prompt, drawn as they are read, with their prompts as captions."""

    def requests() -> Iterator[Request]:
        number = 0
        for prompts in asked.parts(PART):
            some = [
                prompt.request(n * num_images + s)
                for n, prompt in enumerate(prompts, number)
                for s in range(num_images)
            ]
            pipeline.prepare(some)
            number += len(prompts)
            yield from some

    def items() -> Iterator[Item]:
        for told, drawn in pipeline.stream(requests()):
            for request, image in zip(told, drawn[-1], strict=True):
                yield Item(f"image {request.index}", partial(_same, image), partial(_same, request.prompt))

    return Pictures(Path(model), "drawn", asked.number * num_images, items)


def _same(value):
    return value
