"""Raters at once, as many and as fast as is said, at the page of `reimagen rate`: is every verdict stored, how soon?

    python tools/rate_bench.py
    python tools/rate_bench.py --raters 8 --rate 20 --seconds 30

A study with pictures of noise is served by a process of its own, on a free port of 127.0.0.1; raters are threads that
fetch each task's pictures and say a verdict, all together so many a second. What a rater waits for is timed: from the
verdict to the answer, which has the next task in it. In the end every verdict that was answered has to be in the
ratings, as it was said. Ends with status 1 where one is not, or where anything was answered with an error.
"""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import tyro
from workers import prepare_environment

HOST = "127.0.0.1"
LONGEST = 600.0
"""Seconds that are measured at most."""


@dataclass(frozen=True)
class RateBench:
    """Let raters rate at once, and count what is stored and how soon."""

    raters: int = 8
    """At once."""
    rate: float = 20.0
    """Verdicts a second, of all together."""
    seconds: float = 30.0
    """Of rating."""
    side: int = 256
    """Of the pictures, in pixels."""
    best_of: int = 4
    """Pictures of a task."""


@dataclass
class Said:
    """What one rater has said, and what came of it."""

    verdicts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By place: those that were answered."""
    waits: list[float] = field(default_factory=list)
    """Seconds from a verdict to its answer."""
    asked: list[float] = field(default_factory=list)
    """When each verdict was said, on the machine's clock."""
    pictures: int = 0
    late: int = 0
    """Verdicts that were said later than planned by more than a period."""
    errors: list[str] = field(default_factory=list)


class Client:
    """Speaks to the page as a browser does."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(HOST, parts.port, timeout=60)
        token = parse_qs(parts.query)["token"][0]
        self._headers = {"Cookie": f"reimagen_{parts.port}={token}", "Origin": f"http://{HOST}:{parts.port}"}

    def ask(self, method: str, path: str, told: object = None) -> bytes:
        self._connection.request(method, path, None if told is None else json.dumps(told), self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content

    def post(self, path: str, told: object) -> dict:
        return json.loads(self.ask("POST", path, told))


def rate(address: str, number: int, args: RateBench, begin: float, said: Said) -> None:
    """One rater, from the moment `begin` on; verdicts are spread evenly over all raters' time."""
    try:
        client, rng = Client(address), np.random.default_rng(number)
        now = client.post("/api/join", {"name": f"rater {number}"})
        period = args.raters / args.rate
        planned = begin + number / args.rate
        while now["task"] is not None and planned < begin + args.seconds:
            for src in now["task"]["pictures"]:
                said.pictures += len(client.ask("GET", src)) > 0
            time.sleep(max(0.0, planned - time.monotonic()))
            asked = time.monotonic()
            said.late += asked - planned > period
            place, (a, b) = now["task"]["place"], map(int, rng.integers(0, 2, 2))
            verdict = {"rater": now["rater"]["id"], "place": place, "photorealism": a, "faithfulness": b}
            now = client.post("/api/rate", verdict)
            said.waits.append(time.monotonic() - asked)
            said.asked.append(asked)
            said.verdicts[place] = (a, b)
            planned += period
    except Exception as error:  # whatever it is, it is one
        said.errors.append(repr(error))


def write_study(folder: Path, args: RateBench) -> None:
    """Two systems with pictures of noise, of as many prompts as are needed."""
    from reimagen_jax.data.manifest import write_manifest
    from reimagen_jax.evaluation.human.study import KIND
    from reimagen_jax.evaluation.store import save_image
    from reimagen_jax.files import mark

    folder.mkdir()
    mark(folder, KIND)
    rng, tasks = np.random.default_rng(0), int(args.rate * args.seconds / args.raters) + 2
    names = [f"{i + 1:06d}.png" for i in range(16)]
    for name in names:  # a few files for all tasks: what is measured is not the making of noise
        save_image(rng.integers(0, 256, (args.side, args.side, 3), np.uint8), folder / name)
    fields = {
        "seed": 0,
        "best_of": args.best_of,
        "images_per_prompt": args.best_of,
        "systems": ["a", "b"],
        "prompts": [{"text": f"prompt {p}", "category": "", "frequency": "", "references": []} for p in range(tasks)],
        "tasks": [
            {"prompt": p, "system": s, "pictures": [names[(p + s + i) % 16] for i in range(args.best_of)]}
            for p in range(tasks)
            for s in range(2)
        ],
        "contents": {},
    }
    write_manifest(folder, KIND, fields)


def measure(args: RateBench) -> tuple[list[Said], int]:
    """What all raters have said, and how many of their verdicts are not in the ratings as they were said."""
    from reimagen_jax.evaluation.human.store import Ratings
    from reimagen_jax.evaluation.human.study import Study

    with tempfile.TemporaryDirectory(prefix="reimagen_rate") as scratch:
        folder = Path(scratch, "study")
        write_study(folder, args)
        line = [sys.executable, "-m", "reimagen_jax", "rate", "--out", str(folder), "--port", "0"]
        server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        try:
            address = next(told.strip() for told in server.stdout if told.startswith("http"))
            all_said, begin = [Said() for _ in range(args.raters)], time.monotonic() + 1
            threads = [
                threading.Thread(target=rate, args=(address, n, args, begin, said)) for n, said in enumerate(all_said)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            server.kill()  # as -9: what was answered is there all the same
            server.communicate()
        with Ratings.open(Study.open(folder)) as ratings:
            ratings.verify()
            found = {(each.rater, each.place): (each.photorealism, each.faithfulness) for each in ratings.ratings()}
    lost = sum(
        found.get((f"rater {n}", place)) != verdict
        for n, said in enumerate(all_said)
        for place, verdict in said.verdicts.items()
    )
    return all_said, lost


def main(args: RateBench) -> int:
    """Measures and prints; status 1 where something was lost or went wrong."""
    if not (0 < args.seconds <= LONGEST and args.raters >= 1 and args.rate > 0 and 1 <= args.best_of <= 9):
        print(f"--seconds is from 0 to {LONGEST:g}, --raters, --rate and --best-of (up to 9) are at least 1")
        return 2
    prepare_environment()
    all_said, lost = measure(args)
    waits = sorted(wait for said in all_said for wait in said.waits)
    errors = [error for said in all_said for error in said.errors]
    late, pictures = sum(said.late for said in all_said), sum(said.pictures for said in all_said)
    print(f"{args.raters} raters: {len(waits)} verdicts in {args.seconds:g} s, {pictures} pictures of side {args.side}")
    if waits:
        asked = [moment for said in all_said for moment in said.asked]
        ends = [moment + wait for said in all_said for moment, wait in zip(said.asked, said.waits, strict=True)]
        print(f"{len(waits) / (max(ends) - min(asked)):.1f} verdicts a second in fact, {args.rate:g} planned")
        quantiles = {"median": statistics.median(waits), "99 %": waits[int(0.99 * (len(waits) - 1))], "most": waits[-1]}
        print("stored and answered after: " + ", ".join(f"{name} {1e3 * q:.1f} ms" for name, q in quantiles.items()))
    print(f"said later than planned: {late}; errors: {len(errors)}; answered and not stored: {lost}")
    print(*errors[:5], sep="\n", end="" if not errors else "\n")
    return int(bool(errors or lost or not waits))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(RateBench)))
