"""The page of `reimagen rate`: a rater's next task, what is said of it, undo.

The page is told a task's place in the rater's own order, its prompt, references and pictures: nothing of systems. What
it is answered to a verdict, it is answered once that is on the disk.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from reimagen_jax.checked import Checked, Natural
from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.human.store import Rater, Ratings, Shown, Verdict
from reimagen_jax.web import serving
from reimagen_jax.web.answers import body, page

T = TypeVar("T")


@dataclass(frozen=True)
class Joining(Checked):
    """Someone who begins or, where that is confirmed, goes on."""

    name: str
    known: bool = False
    """That there is a rater of this name already is no surprise."""


@dataclass(frozen=True)
class Saying(Checked):
    """A verdict on the task at a place of a rater's order."""

    rater: Natural
    place: Natural
    photorealism: Natural
    faithfulness: Natural
    chosen: Natural = 0


@dataclass(frozen=True)
class Undoing(Checked):
    """The rating that a rater takes back."""

    rater: Natural
    event: Natural


@dataclass(frozen=True)
class Asking(Checked):
    """A rater's next task."""

    rater: Natural


class Desk:
    """Answers raters, by their numbers."""

    def __init__(self, ratings: Ratings, prompts_each: int | None) -> None:
        self.ratings, self.prompts_each = ratings, prompts_each

    @property
    def pictures(self) -> str:
        """Where pictures are: another address for another study, since browsers keep them."""
        return f"/pictures/{self.ratings.study.checksum[:16]}"

    def join(self, told: Joining) -> dict[str, Any]:
        """The first task or, of a name that somebody has, how far that rater is."""
        found = self.ratings.rater(told.name)
        if found is not None and not told.known:
            done = self.ratings.progress(found)
            return {"known": {"name": found.name, "rated": done.rated, "of": done.of}}
        return self.state(self.ratings.join(told.name, self.prompts_each))

    def rate(self, told: Saying) -> dict[str, Any]:
        """Whether it was stored now (or the place had a verdict), and the next task."""
        rater = self._rater(told.rater)
        stored = self.ratings.rate(rater, told.place, Verdict(told.photorealism, told.faithfulness, told.chosen))
        return {"stored": stored, **self.state(rater)}

    def undo(self, told: Undoing) -> dict[str, Any]:
        """Whether it was taken back, and its task again."""
        rater = self._rater(told.rater)
        return {"undone": self.ratings.undo(rater, told.event), **self.state(rater)}

    def ask(self, told: Asking) -> dict[str, Any]:
        """The next task."""
        return self.state(self._rater(told.rater))

    def state(self, rater: Rater) -> dict[str, Any]:
        """What a rater's page shows."""
        done, shown = self.ratings.progress(rater), self.ratings.next(rater)
        ahead = None if shown is None else self.ratings.at(rater, shown.place + 1)
        return {
            "rater": rater._asdict(),
            "progress": {"rated": done.rated, "of": done.of, "last": done.last},
            "task": None if shown is None else self._task(shown),
            "ahead": [] if ahead is None else self._addresses(ahead),
        }

    def _task(self, shown: Shown) -> dict[str, Any]:
        prompt = self.ratings.study.prompts[shown.task.prompt]
        return {
            "place": shown.place,
            "prompt": prompt.text,
            "references": [{"src": self._address(one.file), "caption": one.caption} for one in prompt.references],
            "pictures": [self._address(name) for name in shown.pictures],
            "before": None if shown.before is None else shown.before._asdict(),
        }

    def _addresses(self, shown: Shown) -> list[str]:
        prompt = self.ratings.study.prompts[shown.task.prompt]
        return [self._address(name) for name in (*shown.pictures, *(one.file for one in prompt.references))]

    def _address(self, name: str) -> str:
        return f"{self.pictures}/{name}"

    def _rater(self, number: int) -> Rater:
        found = self.ratings.numbered(number)
        if found is None:
            raise UserError("there is no such rater here: load the page again and say your name")
        return found


def application(ratings: Ratings, token: str, host: str = "127.0.0.1", prompts_each: int | None = None) -> ASGIApp:
    """The page, served to whoever has the token."""
    desk = Desk(ratings, prompts_each)
    study = ratings.study

    async def index(request: Request) -> Response:
        return page("rate.html.j2", best_of=study.best_of, prompts=len(study.prompts))

    async def picture(request: Request) -> Response:
        try:
            content = await run_in_threadpool(study.image, request.path_params["name"])
        except (KeyError, OSError):
            raise HTTPException(404) from None
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})

    def answer(kind: type[T], of: Callable[[T], dict[str, Any]]) -> Callable[[Request], Any]:
        async def answered(request: Request) -> Response:
            told = await body(request, kind)
            try:
                return JSONResponse(await run_in_threadpool(of, told))
            except sqlite3.Error as error:
                raise HTTPException(503, f"it was not stored ({error}): try again") from error

        return answered

    routes = [
        Route("/", index),
        Route(f"{desk.pictures}/{{name}}", picture),
        Route("/api/join", answer(Joining, desk.join), methods=["POST"]),
        Route("/api/task", answer(Asking, desk.ask), methods=["POST"]),
        Route("/api/rate", answer(Saying, desk.rate), methods=["POST"]),
        Route("/api/undo", answer(Undoing, desk.undo), methods=["POST"]),
    ]
    return serving.application(routes, token=token, host=host)
