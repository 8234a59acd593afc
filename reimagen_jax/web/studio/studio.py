"""What is behind the page: models, a knowledge base, pictures that were sent, a device, and what was drawn.

A strip is one prompt at every eta, and without neighbours, from the same noise: one batch of one program, so that the
page moves through it without asking. Whatever is drawn is drawn by the package's pipeline; the program of a stage is
kept for each number of steps, solver and room for neighbours, and compiled ahead where the page knows what it will ask.
"""

import hashlib
import io
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from reimagen_jax.data import images
from reimagen_jax.errors import require
from reimagen_jax.inference import edits
from reimagen_jax.inference.origin import Origin
from reimagen_jax.inference.pipeline import Pipeline, Stage
from reimagen_jax.inference.prompts import Prompt, asking, find
from reimagen_jax.inference.provenance import origins, rights
from reimagen_jax.inference.requests import pinned
from reimagen_jax.inference.stepping import SteppedStage, Tell, stepped
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.systems.reimagen.settings import ETAS
from reimagen_jax.systems.request import Neighbour, Request
from reimagen_jax.web.answers import MAX_UPLOAD
from reimagen_jax.web.studio.asked import MASK, Chosen, Drawn, Search, Warm
from reimagen_jax.web.studio.device import Device, Job
from reimagen_jax.web.studio.offered import EXAMPLES, KINDS, Offered

STRIP = 1 + len(ETAS)
"""Images of a row: without neighbours, and one for each eta."""
BATCH = 4
"""Images that are drawn at once where there is no strip, and by the later stages of a cascade."""
PROGRAMS = 6
"""Pipelines whose programs are kept."""
HISTORY = 100
"""Drawings that are kept."""
PICTURES = 64
"""Pictures that were sent here, and are kept."""
SHOWN = 256
"""Pixels at which a neighbour is shown at most."""
WITHOUT = "without neighbours"


class Sent(NamedTuple):
    """A picture that was sent here."""

    data: bytes
    image: np.ndarray
    """uint8 [S, S, 3], its central square."""
    name: str
    """As the browser told it; no file is opened by it."""


class Asked(NamedTuple):
    """A prompt with its neighbours, as the knowledge base has found them."""

    prompt: Prompt
    ids: tuple[int | None, ...]
    """Of the neighbours in the base; None for one's own."""
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Line:
    """What a command line that draws the same has to say."""

    offered: Offered
    asked: Drawn
    prompt: Prompt
    pipeline: Pipeline
    eta: float | None
    files: Mapping[str, str]
    """Picture that was sent here -> the name that its file is to have."""


@dataclass(frozen=True)
class Part:
    """Images of a drawing that one pipeline draws."""

    pipeline: Pipeline
    places: tuple[int, ...]
    """Theirs among all images."""


@dataclass
class Drawing:
    """What was drawn."""

    number: int
    asked: Drawn
    offered: Offered
    parts: list[Part] = field(repr=False)
    requests: list[Request] = field(repr=False)
    image_NHWC: np.ndarray = field(repr=False)
    origins: list[Origin] = field(repr=False)
    columns: list[dict[str, Any]] = field(repr=False)
    """Of every image: its row and label, its eta if it has one, whether it is without neighbours."""
    hits: list[dict[str, Any]] = field(repr=False)
    other_hits: list[dict[str, Any]] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)
    """Pictures that the command line reads, by name."""
    plan: edits.Plan | None = field(repr=False)
    """Of an edit."""
    seconds: float = 0.0

    def name(self, n: int) -> str:
        """Of an image's file."""
        slug = "-".join(re.findall(r"[a-z0-9]+", self.asked.prompt.lower()))[:40].strip("-") or "image"
        label = re.sub(r"[^a-z0-9.]+", "-", self.columns[n]["name"].lower()).strip("-")
        return f"{self.number:03d}-{slug}-{label}-{self.columns[n]['row'] + 1}"

    def told(self) -> dict[str, Any]:
        """In JSON types."""
        shown = [
            column | {"url": f"/api/drawings/{self.number}/{n}.png", "file": self.name(n)}
            for n, column in enumerate(self.columns)
        ]
        about = [{"command": origin.command, "index": origin.index} for origin in self.origins]
        return {
            "number": self.number,
            "asked": asdict(self.asked),
            "images": [one | told for one, told in zip(shown, about, strict=True)],
            "neighbours": self.hits,
            "others": self.other_hits,
            "files": sorted(self.files),
            "model": self.offered.label,
            "resolution": self.image_NHWC.shape[1],
            "seconds": round(self.seconds, 2),
        }


class Studio:
    """All of it; what is asked comes from threads of the server, what is drawn is drawn in the device's."""

    def __init__(self, offered: Sequence[Offered], base: KnowledgeBase | None, command: Callable[[Line], str]) -> None:
        self.offered, self.base, self.command = {each.label: each for each in offered}, base, command
        self.device = Device()
        self.drawings: OrderedDict[int, Drawing] = OrderedDict()
        self.sent: OrderedDict[str, Sent] = OrderedDict()
        self.retrievals = 0
        self._stages: OrderedDict[Any, list[Stage]] = OrderedDict()
        self._lock = threading.Lock()

    def told(self) -> dict[str, Any]:
        """What the page begins with, in JSON types."""
        base = self.base
        return {
            "models": [each.told() for each in self.offered.values()],
            "base": None if base is None else {"records": len(base), "name": base.path.name},
            "examples": self._examples(),
            "etas": list(ETAS),
            "mask": MASK,
            "largest": MAX_UPLOAD,
            "history": [drawing.told() for drawing in list(self.drawings.values())],
            "jobs": [job.told() for job in self.device.jobs],
        }

    def close(self) -> None:
        """Ends what runs."""
        self.device.close()

    def _examples(self) -> list[dict[str, str]]:
        """Prompts to begin with: captions of a few records, each asked for by its entity's name where it has one."""
        base, number = self.base, EXAMPLES
        if base is None:
            return []
        with self._lock:
            found = base.records.fetch([i * len(base) // number for i in range(min(number, len(base)))])
        names = [record.attributes.get("entity") for record in found]
        return [
            {"prompt": record.text, "query": name if isinstance(name, str) else ""}
            for record, name in zip(found, names, strict=True)
        ]

    # --- finding ------------------------------------------------------------------------------------------------------

    def search(self, asked: Search) -> dict[str, Any]:
        """What an image would be drawn with, and why, in JSON types."""
        offered = self._offer(asked.model)
        found = self._asked(offered, asked.prompt, asked.chosen)
        return {
            "neighbours": self._hits(offered, found, asked.chosen),
            "left_out": dict(found.left_out),
            "query": found.prompt.query or found.prompt.text,
        }

    def shown(self, n: int) -> bytes:
        """The picture of a record of the base, as PNG. Raises `UserError` where there is none."""
        require(self.base is not None and 0 <= n < len(self.base), "there is no such record")
        with self._lock:
            (record,) = self.base.records.fetch([n])
        image = images.decode(record.image)
        return _png(images.decode(record.image, SHOWN) if len(image) > SHOWN else image)

    def _offer(self, label: str) -> Offered:
        require(label in self.offered, f"there is no model {label!r} here")
        return self.offered[label]

    def _asked(self, offered: Offered, text: str, chosen: Chosen, negative: str = "") -> Asked:
        """As `reimagen sample` finds them: one's own, the pinned, then the best of the base."""
        config, base, k = offered.first.config, self.base, chosen.k
        side = getattr(config.system, "resolution", SHOWN)
        own = tuple(self._own(each.picture, each.caption, side) for each in chosen.own)
        prompt = Prompt(text.strip(), query=chosen.query.strip(), negative=negative.strip())
        if not offered.takes_neighbours:
            require(not (chosen.own or chosen.pin), offered.lacks.get("neighbours", ""))
            return Asked(prompt, (), {})
        if base is None:
            require(not chosen.pin, "there is no knowledge base to pin records of")
            return Asked(replace(prompt, neighbours=own[:k]), (None,) * len(own[:k]), {})
        how = offered.how
        with self._lock:
            self.retrievals += 1
            base.allowed(exclude=chosen.ban)
            by_hand = (*own, *pinned(base, chosen.pin, side))[:k]
            ids = (*(None for _ in own), *base.ids_of(dict.fromkeys(chosen.pin)).tolist())[:k]
            (prompt,) = asking([prompt], how)
            found = find(prompt, base, k - len(by_hand), side, given=by_hand, ban=chosen.ban, how=how)
        return Asked(replace(prompt, neighbours=by_hand + found.neighbours), (*ids, *found.ids), found.left_out)

    def _own(self, picture: str, caption: str, side: int) -> Neighbour:
        sent = self._sent(picture)
        return Neighbour(images.decode(sent.data, side), caption.strip(), math.nan, sent.name, sent.data)

    def _hits(self, offered: Offered, found: Asked, chosen: Chosen) -> list[dict[str, Any]]:
        """The neighbours, with what makes their scores."""
        how = offered.how
        query = found.prompt.query or found.prompt.text
        hits = []
        for position, (hit, n) in enumerate(zip(found.prompt.neighbours, found.ids, strict=True)):
            own = chosen.own[position].picture if n is None else ""
            with self._lock:
                why = None if n is None else self.base.explain(query, n, method=how.method)
            hits.append(
                {
                    "key": hit.key,
                    "text": hit.text,
                    "score": None if math.isnan(hit.score) else round(hit.score, 3),
                    "own": own,
                    "url": f"/api/pictures/{own}" if n is None else f"/api/records/{n}",
                    "pinned": hit.key in chosen.pin and n is not None,
                    "rights": rights(hit),
                    "words": [] if why is None else [[m.word, round(m.score, 3), m.documents] for m in why.matches],
                    "unknown": [] if why is None else list(why.unknown),
                }
            )
        return hits

    # --- pictures that were sent --------------------------------------------------------------------------------------

    def take(self, data: bytes, image: np.ndarray, name: str) -> dict[str, Any]:
        """Keeps a picture, and tells what it is called here."""
        key = hashlib.sha256(data).hexdigest()[:24]
        name = re.sub(r"[^\w.-]+", "-", name)[-60:].strip(".-") or "picture"
        taken = {"mask.png", *(other.name for other_key, other in self.sent.items() if other_key != key)}
        if name in taken:
            name = f"{key[:6]}-{name}"
        self.sent[key] = Sent(data, image, name)
        self.sent.move_to_end(key)
        while len(self.sent) > PICTURES:
            self.sent.popitem(last=False)
        return {"picture": key, "url": f"/api/pictures/{key}", "side": len(image), "name": name}

    def picture(self, key: str) -> bytes:
        """One that was sent, as PNG, of at most `SHOWN` pixels."""
        square = PIL.Image.fromarray(self._sent(key).image)
        return _png(np.asarray(images.square(square, min(SHOWN, square.width))))

    def _sent(self, key: str) -> Sent:
        require(key in self.sent, "a picture is not here any more: give it again")
        return self.sent[key]

    # --- drawing ------------------------------------------------------------------------------------------------------

    def draw(self, asked: Drawn) -> Job:
        """Puts a drawing into the queue. Raises `UserError` on what cannot be drawn."""
        offered = self._offer(asked.model)
        needed = KINDS[asked.kind]
        require(needed not in offered.lacks, offered.lacks.get(needed, ""))
        found = self._asked(offered, asked.prompt, asked.chosen, asked.negative)
        other = None
        if asked.kind == "swap":
            asked = replace(asked, to=_completed(asked))
            other = self._asked(offered, asked.to_prompt or asked.prompt, asked.to, asked.negative)
        room = max(len(each.prompt.neighbours) for each in (found, other) if each is not None)
        plan = None if asked.kind == "draw" else self._plan(asked, found.prompt, other and other.prompt)
        requests, columns = self._strip(offered, asked, found.prompt) if plan is None else _rows(plan, asked)
        parts = self._parts(offered, asked, room, columns)
        for part in parts if plan is None else ():
            first = part.pipeline.stages[0]
            for request in (requests[n] for n in part.places):
                first.feed.check(first.feed.limited(request, first.settings), first.settings)

        def work(number: int, tell: Tell) -> dict[str, Any]:
            began = time.monotonic()
            drawn, images_n = self._draw(parts, requests, plan, tell)
            commands = self._commands(offered, asked, found.prompt, parts, columns)
            drawing = Drawing(
                number,
                asked,
                offered,
                parts,
                drawn,
                images_n,
                self._origins(offered, parts, drawn, images_n, plan, commands),
                columns,
                self._hits(offered, found, asked.chosen),
                [] if other is None else self._hits(offered, other, asked.to),
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
        parts = self._parts(offered, asked, room, [column])
        if all(stage.compilations for part in parts for stage in part.pipeline.stages):
            return None

        def work(_: int, tell: Tell) -> None:
            self._draw(parts, [request], None, tell)

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
        return self._draw(drawing.parts, requests, drawing.plan, tell)[1]

    def drawing(self, number: int) -> Drawing:
        """One that is kept. Raises `UserError`."""
        require(number in self.drawings, "that drawing is not kept any more")
        return self.drawings[number]

    def _draw(
        self, parts: Sequence[Part], requests: Sequence[Request], plan: edits.Plan | None, tell: Tell
    ) -> tuple[list[Request], np.ndarray]:
        """The requests, and the last stages' images; tells of steps over all parts, stages and batches."""
        total, done = 0, 0

        def count(step: int, steps: int) -> None:
            nonlocal done
            done += step > 0
            tell(done, max(total, done))

        for part in parts:
            number, again = len(part.places), plan is not None and plan.again is not None
            for stage in part.pipeline.stages:
                batches = sum(-(-some // stage.at_once) for some in ([1, number - 1] if again else [number]))
                if isinstance(stage, SteppedStage):
                    stage.tell = count
                    total += batches * (len(stage.system.visited(stage.settings)) - 1)
                else:
                    total += batches
        count(0, 0)
        if plan is not None:
            drawn, stages = plan.drawn(parts[0].pipeline.draw)
            return drawn, stages[-1]
        image_of = {}
        for part in parts:
            drawn = part.pipeline.draw([requests[n] for n in part.places])[-1]
            image_of |= dict(zip(part.places, drawn, strict=True))
        return list(requests), np.stack([image_of[n] for n in range(len(requests))])

    def _parts(
        self, offered: Offered, asked: Drawn | Warm, room: int, columns: Sequence[Mapping[str, Any]]
    ) -> list[Part]:
        """What draws the images of these columns: one pipeline, or another for those without neighbours."""
        apart = [bool(column["without"]) and offered.apart for column in columns]
        strip = offered.has_eta and getattr(asked, "kind", "draw") == "draw"
        parts = []
        for without in sorted(set(apart)):
            pipeline = self._pipeline(offered, asked, room, STRIP if strip and not without else BATCH, without)
            parts.append(Part(pipeline, tuple(n for n, own in enumerate(apart) if own == without)))
        return parts

    def _pipeline(self, offered: Offered, asked: Drawn | Warm, room: int, batch: int, without: bool) -> Pipeline:
        """The stages that draw so, by programs that were compiled before where they were."""
        own, room = (offered.without, 0) if without else (offered.settings, room)
        given = {"num_steps": asked.steps, "solver": asked.solver}
        given = {name: value for name, value in given.items() if value is not None and hasattr(own, name)}
        key = (offered.label, tuple(given.items()), room, batch, without)
        with self._lock:
            if key not in self._stages:
                stages = []
                for number, model in enumerate(offered.models):
                    most = room if model.config.data.num_neighbours else 0
                    settings = model.config.system.sampler if number else own.changed(**given)
                    stage = model.stage(settings.with_room(most), BATCH if number else batch)
                    stages.append(stepped(stage, lambda step, steps: None))
                self._stages[key] = stages
            self._stages.move_to_end(key)
            while len(self._stages) > PROGRAMS:
                self._stages.popitem(last=False)
            return Pipeline(self._stages[key], getattr(asked, "seed", 0))

    def _numbers(self, offered: Offered, asked: Drawn) -> dict[str, float]:
        """Of guidance, that are given."""
        given = {"text_weight": asked.text_weight, "neighbour_weight": asked.neighbour_weight}
        return {n: value for n, value in given.items() if value is not None and n not in offered.lacks}

    def _strip(self, offered: Offered, asked: Drawn, prompt: Prompt) -> tuple[list[Request], list[dict[str, Any]]]:
        """Rows of images from noise of their own: without neighbours, then with them, at every eta if there is one."""
        numbers, requests, columns = self._numbers(offered, asked), [], []

        def add(request: Request, label: str, name: str, eta: float | None = None, without: bool = False) -> None:
            requests.append(request)
            columns.append({"row": s, "label": label, "name": name, "eta": eta, "without": without})

        beside = offered.takes_neighbours and offered.without is not None
        for s in range(asked.num_images):
            if beside:
                add(replace(prompt.baseline(s), guidance=numbers), WITHOUT, "without", without=True)
            if offered.has_eta and (prompt.neighbours or not beside):
                for eta in ETAS:
                    add(prompt.request(s, eta=eta, **numbers), f"η {eta:g}", f"eta{eta:g}", eta)
            elif prompt.neighbours or not beside:
                add(prompt.request(s, **numbers), f"image {s + 1}", "image")
        return requests, columns

    def _plan(self, asked: Drawn, prompt: Prompt, other: Prompt | None) -> edits.Plan:
        many = {"num_images": asked.num_images}
        if asked.kind == "vary":
            plan = edits.variations([prompt], strength=asked.strength, **many)
        elif asked.kind == "swap":
            plan = edits.swapping([prompt], [other], **many)
        elif asked.kind == "image":
            plan = edits.image_to_image([prompt], self._sent(asked.picture).image, strength=asked.strength, **many)
        else:
            mask, image = mask_of(asked.mask), self._sent(asked.picture).image
            plan = edits.inpainting([prompt], image, mask, strength=asked.strength, **many)
        offered = self._offer(asked.model)
        numbers = self._numbers(offered, asked)
        numbers |= {"eta": asked.eta} if asked.eta is not None and offered.has_eta else {}
        rows = tuple(
            replace(row, requests=tuple(replace(request, guidance=numbers) for request in row.requests))
            for row in plan.rows
        )
        return replace(plan, rows=rows)

    def _commands(
        self, offered: Offered, asked: Drawn, prompt: Prompt, parts: Sequence[Part], columns: Sequence[dict[str, Any]]
    ) -> list[str]:
        """The command line of every image."""
        files = {key: self._sent(key).name for key in self._used(asked)}
        pipelines = {n: part.pipeline for part in parts for n in part.places}
        said: dict[Any, str] = {}
        for n, column in enumerate(columns):
            if (column["eta"], column["without"]) not in said:
                eta = column["eta"] if asked.kind == "draw" else asked.eta
                told = replace(prompt, neighbours=()) if column["without"] else prompt
                line = Line(offered, asked, told, pipelines[n], eta, files)
                said[column["eta"], column["without"]] = self.command(line)
        return [said[column["eta"], column["without"]] for column in columns]

    def _origins(
        self, offered: Offered, parts: Sequence[Part], requests: Sequence[Request], drawn: np.ndarray,
        plan: edits.Plan | None, commands: Sequence[str],
    ) -> list[Origin]:  # fmt: skip
        by = {"made_by": "sample"} if plan is None else {"made_by": "edit"}
        by |= {} if plan is None else {"more": {"edit": {"kind": plan.kind, **plan.told}}}
        origin_of = {}
        for part in parts:
            asked = [requests[n] for n in part.places]
            told = origins(offered.models, part.pipeline, asked, drawn[list(part.places)], command="", **by)
            origin_of |= dict(zip(part.places, told, strict=True))
        return [replace(origin_of[n], command=command) for n, command in enumerate(commands)]

    def _used(self, asked: Drawn) -> list[str]:
        """Pictures that were sent, and are a part of it."""
        chosen = [asked.chosen, *([asked.to] if asked.to is not None else [])]
        used = [own.picture for each in chosen for own in each.own]
        return used + ([asked.picture] if asked.kind in ("image", "inpaint") else [])

    def _files(self, asked: Drawn) -> dict[str, bytes]:
        """What the command line reads."""
        files = {self._sent(key).name: self._sent(key).data for key in self._used(asked)}
        if asked.kind == "inpaint":
            files["mask.png"] = _png(edits.as_picture(mask_of(asked.mask)))
        return files


def _completed(asked: Drawn) -> Chosen:
    """What is swapped to, with what it shares with the first, as `reimagen edit swap` has it."""
    chosen, to = asked.chosen, asked.to
    given = asked.to_prompt.strip() or to.query.strip() or to.own or to.pin
    require(bool(given), "there is nothing to swap to: give another prompt, or what its neighbours are found by")
    query = to.query or ("" if asked.to_prompt.strip() else chosen.query)
    return replace(to, k=chosen.k, ban=chosen.ban, query=query)


def mask_of(signs: str) -> np.ndarray:
    """uint8 [MASK, MASK]: 255 is drawn anew."""
    return np.array([255 * int(sign) for sign in signs], np.uint8).reshape(MASK, MASK)


def _rows(plan: edits.Plan, asked: Drawn) -> tuple[list[Request], list[dict[str, Any]]]:
    """A plan's requests, and how each is called."""
    columns = []
    for number, row in enumerate(plan.rows):
        drawn = {n: heading for heading, n in row.shown.items() if isinstance(n, int)}
        for n in range(len(row.requests)):
            name = f"{plan.kind}-{n}"
            columns.append({"row": number, "label": drawn[n], "name": name, "eta": asked.eta, "without": False})
    return plan.requests, columns


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
