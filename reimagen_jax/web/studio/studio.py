"""What is behind the page: models, a knowledge base, pictures that were sent, a device, and what was drawn.

A strip is one prompt at every eta, and without neighbours, from the same noise: one batch of one program, so that the
page moves through it without asking. Whatever is drawn is drawn by the package's pipeline; the program of a stage is
kept for each number of steps, solver and room for neighbours, and compiled ahead where the page knows what it will ask.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reimagen_jax.errors import require
from reimagen_jax.inference import edits
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.inference.stepping import Tell
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.settings import ETAS
from reimagen_jax.systems.request import Request
from reimagen_jax.web.answers import MAX_UPLOAD
from reimagen_jax.web.studio.asked import MASK, Drawn, Search, Warm
from reimagen_jax.web.studio.device import Device, Job
from reimagen_jax.web.studio.drawing import Drawing, Line, origins_of
from reimagen_jax.web.studio.finding import Finder
from reimagen_jax.web.studio.offered import KINDS, Offered
from reimagen_jax.web.studio.pictures import Pictures, as_png
from reimagen_jax.web.studio.programs import Part, Programs, draw
from reimagen_jax.web.studio.rows import completed, mask_of, plan_of, rows_of, strip

HISTORY = 100
"""Drawings that are kept."""
ON_PICTURE = ("image", "inpaint")
"""Of what can be done, that which is done on a picture."""


class Studio:
    """All of it; what is asked comes from threads of the server, what is drawn is drawn in the device's."""

    def __init__(self, offered: Sequence[Offered], base: KnowledgeBase | None, command: Callable[[Line], str]) -> None:
        self.offered, self.base, self.command = {each.label: each for each in offered}, base, command
        self.device, self.programs, self.pictures = Device(), Programs(), Pictures()
        self.finder = Finder(base, self.pictures)
        self.drawings: OrderedDict[int, Drawing] = OrderedDict()

    def told(self) -> dict[str, Any]:
        """What the page begins with, in JSON types."""
        return {
            "models": [each.told() for each in self.offered.values()],
            "base": self.finder.told(),
            "examples": self.finder.examples(),
            "etas": list(ETAS),
            "mask": MASK,
            "largest": MAX_UPLOAD,
            "history": [drawing.told() for drawing in list(self.drawings.values())],
            "jobs": [job.told() for job in self.device.jobs],
        }

    def close(self) -> None:
        """Ends what runs."""
        self.device.close()

    def search(self, asked: Search) -> dict[str, Any]:
        """What an image would be drawn with, and why, in JSON types."""
        return self.finder.search(self._offer(asked.model), asked)

    def _offer(self, label: str) -> Offered:
        require(label in self.offered, f"there is no model {label!r} here")
        return self.offered[label]

    def draw(self, asked: Drawn) -> Job:
        """Puts a drawing into the queue. Raises `UserError` on what cannot be drawn."""
        offered = self._offer(asked.model)
        needed = KINDS[asked.kind]
        require(needed not in offered.lacks, offered.lacks.get(needed, ""))
        found = self.finder.asked(offered, asked.prompt, asked.chosen, asked.negative)
        require(
            bool(found.prompt.neighbours) or not offered.takes_neighbours or offered.without is not None,
            f"{offered.label} draws from neighbours alone, and there are none: ask for something else, or give a "
            "picture of your own",
        )
        other = None
        if asked.kind == "swap":
            asked = replace(asked, to=completed(asked))
            other = self.finder.asked(offered, asked.to_prompt or asked.prompt, asked.to, asked.negative)
        room = max(len(each.prompt.neighbours) for each in (found, other) if each is not None)
        plan = None if asked.kind == "draw" else self._plan(offered, asked, found.prompt, other and other.prompt)
        requests, columns = strip(offered, asked, found.prompt) if plan is None else rows_of(plan, asked)
        parts = self.programs.parts(offered, asked, room, columns)
        for part in parts if plan is None else ():
            first = part.pipeline.stages[0]
            for request in (requests[n] for n in part.places):
                first.feed.check(first.feed.limited(request, first.settings), first.settings)

        def work(number: int, tell: Tell) -> dict[str, Any]:
            began = time.monotonic()
            drawn, images_n = draw(parts, requests, plan, tell)
            commands = self._commands(offered, asked, found.prompt, parts, requests, columns)
            drawing = Drawing(
                number,
                asked,
                offered,
                parts,
                drawn,
                images_n,
                origins_of(offered, parts, drawn, images_n, plan, commands),
                columns,
                self.finder.hits(offered, found, asked.chosen),
                [] if other is None else self.finder.hits(offered, other, asked.to),
                self._files(asked),
                plan,
                time.monotonic() - began,
            )
            self.drawings[number] = drawing
            while len(self.drawings) > HISTORY:
                self.drawings.popitem(last=False)
            return drawing.told()

        return self.device.add(asked.prompt.strip(), work, kind=asked.kind)

    def warm(self, asked: Warm) -> Job | None:
        """Compiles what a strip is drawn by, unless that was done; images are drawn for it that nobody sees."""
        offered = self._offer(asked.model)
        room = asked.k if offered.takes_neighbours else 0
        request = offered.request(room)
        if request is None:
            return None
        column = {"without": room == 0}
        parts = self.programs.parts(offered, asked, room, [column])
        if all(stage.compilations for part in parts for stage in part.pipeline.stages):
            return None

        def work(_: int, tell: Tell) -> None:
            draw(parts, [request], None, tell)

        return self.device.add(f"Getting {offered.label} ready", work, kind="warm")

    def reproduce(self, number: int) -> Job:
        """Draws a drawing's images again, and compares. Raises `UserError` where it is not kept."""
        drawing = self.drawing(number)

        def work(_: int, tell: Tell) -> dict[str, Any]:
            again = self.again(drawing, tell)
            levels = np.abs(again.astype(int) - drawing.image_NHWC)
            return {"of": number, "equal": not levels.any(), "most": int(levels.max()), "mean": float(levels.mean())}

        return self.device.add(f"Again: {drawing.asked.prompt.strip()}", work, kind="reproduce", of=number)

    def again(self, drawing: Drawing, tell: Tell) -> np.ndarray:
        """The images of a drawing, drawn again."""
        requests = drawing.requests if drawing.plan is None else drawing.plan.requests
        return draw(drawing.parts, requests, drawing.plan, tell)[1]

    def drawing(self, number: int) -> Drawing:
        """One that is kept. Raises `UserError`."""
        require(number in self.drawings, "that drawing is not kept any more")
        return self.drawings[number]

    def _plan(self, offered: Offered, asked: Drawn, prompt: Prompt, other: Prompt | None) -> edits.Plan:
        image = self.pictures[asked.picture].image if asked.kind in ON_PICTURE else None
        return plan_of(offered, asked, prompt, other, image)

    def _commands(
        self,
        offered: Offered,
        asked: Drawn,
        prompt: Prompt,
        parts: Sequence[Part],
        requests: Sequence[Request],
        columns: Sequence[dict[str, Any]],
    ) -> list[str]:
        """The command line of every image: an edit's draws those without neighbours, too, unless other settings do."""
        files = {key: self.pictures[key].name for key in self._used(asked)}
        edited = asked.kind != "draw"
        baseline = edited and not offered.apart and any(column["without"] for column in columns)
        said: dict[Any, str] = {}
        commands = [""] * len(columns)
        for part in parts:
            for n in part.places:
                column, own, told = columns[n], asked, prompt
                if column["without"] and not baseline:
                    own, told = replace(asked, kind="draw", prompt=requests[n].prompt), replace(prompt, neighbours=())
                what = column["eta"], column["without"] and not baseline, own.prompt
                if what not in said:
                    line = Line(offered, own, told, part.pipeline, column["eta"], baseline, files)
                    said[what] = self.command(line)
                commands[n] = said[what]
        return commands

    def _used(self, asked: Drawn) -> list[str]:
        """Pictures that were sent, and are a part of it."""
        chosen = [asked.chosen, *([asked.to] if asked.to is not None else [])]
        used = [own.picture for each in chosen for own in each.own]
        return used + ([asked.picture] if asked.kind in ON_PICTURE else [])

    def _files(self, asked: Drawn) -> dict[str, bytes]:
        """What the command line reads."""
        files = {self.pictures[key].name: self.pictures[key].data for key in self._used(asked)}
        if asked.kind == "inpaint":
            files["mask.png"] = as_png(edits.as_picture(mask_of(asked.mask)))
        return files
