"""Runs the commands of all pages and of the experiments' headers, on a small scale, in a folder of their own.

    python tools/run_pages.py                    # in a temporary folder; status 1 if a command fails
    python tools/run_pages.py --list             # what would be run, and how, and what not, with the reason
    python tools/run_pages.py --folder DIR       # in this folder, which stays; what was done there is not done again

Commands run in the order of the pages, each with the folders that those before it have left. `SMALL` says how each is
made small, `NOT_HERE` which ones cannot run here. Images, shards and captions to begin with are made first.
"""

import gzip
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pages  # beside this file
import PIL.Image
import pyarrow
import pyarrow.parquet
import tyro

TIMEOUT = 1800
WORLD = "--world.num-entities 64 --world.num-images 600"
TRAIN = "--train.num-steps 2 --data.batch-size 8 --train.log-every 1"

SMALL = (
    (r"tools/fuzz.py", "--minutes 0.1"),
    (r"tools/flip.py", "--flips 1"),
    (r"tools/kill.py", "--kills 1"),
    (r"reimagen demo", "--num-prompts 2"),
    (r"reimagen prepare .*--source", ""),
    (r"reimagen prepare .*--world", ""),
    (r"reimagen prepare", WORLD),
    (r"reimagen split", ""),
    (r"reimagen train ring/", ""),
    (r"reimagen train .*--workdir runs/train ", f"{TRAIN} --train.sample-every 2 --sampler.num-steps 2"),
    (r"reimagen train", f"{TRAIN} --train.sample-every 0"),
    (r"reimagen distill", "--num-steps 2 --batch-size 8"),
    (r"reimagen sweep .*--world-prompts", "--world-prompts 2 --batch-size 2"),
    (r"reimagen sweep .*--over", "--batch-size 2"),
    (r"reimagen sweep", "--limit 2 --etas 0 1 --steps 2 --batch-size 2"),
    (r"reimagen edit", "--steps 4 --repeats 2 --jump 2 --batch-size 2"),
    (r"tools/edits.py", "--pairs 2"),
    (r"reimagen unclip", "--steps 2 --batch-size 2"),
    (r"tools/rate_bench.py", "--seconds 2 --side 32"),
    (r"reimagen rcg", "--steps 2 --batch-size 2 --num-images 2"),
    (r"tools/text_differences.py", "--num-prompts 2 --shares 0.2 --steps 2 --batch-size 2"),
    (r"tools/variations.py", "--num-images 2 --steps 2 --batch-size 2"),
    (r"reimagen seedselect", "--limit 1 --steps 2 --iterations 1 --batch-size 1"),
    (r"reimagen evaluate answers", "--num-prompts 1 --iterations 1 --search-steps 2 --batch-size 1 --splits unseen"),
    (r"reimagen evaluate seedselect", "--num-prompts 1 --steps 2 --iterations 1 --batch-size 1"),
    (r"tools/search_memory.py", "--steps 2 --batch 1"),
    (r"reimagen reproduce runs/cats", ""),
    (r"reimagen sample", "--limit 2 --steps 2 --num-images 1 --batch-size 2"),
    (r"reimagen evaluate entities", "--num-prompts 2 --steps 2 --batch-size 2"),
    (r"reimagen evaluate pictures", "--limit 2 --steps 2 --batch-size 2 --features looks"),
    (r"reimagen evaluate people", "--num-prompts 1 --num-images 1 --steps 2 --batch-size 2"),
    (r"reimagen rater train .*--from-run", "--num-images 64"),
    (r"reimagen encode-train .*--from-run", ""),
    (r"reimagen rater train", "--num-steps 3 --batch-size 8 --num-images 64"),
    (r"reimagen rater check", "--num-images 64"),
    (r"reimagen encode-train", "--num-steps 3 --batch-size 8"),
    (r"reimagen (index|triples|search|export|verify|report)", ""),
    (r"tools/bench.py", "--scale small --batch 1 --rounds 1 --sampler-steps 1 --no-compile --no-rival"),
    (r"tools/step_cost.py", "--batch 1 --rounds 1"),
    (r"tools/gpu_day.py", "--scale small --parts device"),
    (r"tools/encoder_cost.py", "--size small --texts 1 --tokens 8 --rounds 1"),
    (r"tools/sampling_cost.py", "--steps 1"),
    (r"tools/neighbour_floors.py", "--floors 0 0.7"),
    (r"tools/solver_orders.py", "--evaluations 8 12 16 24 --samples 16 --exact-steps 500"),
    (r"tools/sampler_bench.py steps", "--num-prompts 2 --batch-size 2 --reference-steps 2 --steps 2 --solvers ddim"),
    (r"tools/sampler_bench.py guidance", "--num-prompts 2 --batch-size 2 --evaluations 6 --etas 0.5 --weights 2 3"),
    (r"tools/sampling_speed.py", "--solvers ddim --batches 1 --rounds 1 --evaluations 2"),
    (r"tools/retrieval_bench.py", "--size 2000 --queries 50 --rounds 1 --libraries"),
    (r"tools/retrieval_cost.py", "--size 2000 --queries 200 --check 3000"),
    (r"python ring/draw.py", ""),
)
"""What is added to a command: of the first pattern that is found in it."""

NOT_HERE = (
    (r"IF-I|runs/(if|train|text)(64|256)", "needs DeepFloyd IF's published weights; tests/parity has them at random"),
    (r"t5-v1_1-small", "needs T5's published weights; tests/commands/test_frozen_text.py has them at random"),
    (r"karlo", "needs karlo's published weights; tests/parity/test_karlo.py has them at random"),
    (
        r"convert_weights.py \S+\.(pth|tar|ckpt|safetensors)",
        "needs published weights; tests/parity has them at random (test_moco.py, test_rdm.py, test_vq.py, "
        "test_mage.py, test_lpips.py)",
    ),
    (r"tfds:", "downloads a data set; tests/data/sources/test_tfds.py makes one"),
    (
        r"experiments/re_imagen.* --workdir DIR",
        "the paper's size, for many devices; two small steps stand in its header",
    ),
    (r"reimagen reproduce sent.png", "is of a picture that somebody has sent"),
    (
        r"evaluate (fid|drawn|scores|statistics|fewshot|longtail)|reimagen augment",
        "is about few records and pictures that were drawn of them; tests/commands/test_evaluate_distances.py, "
        "tests/commands/test_fewshot.py and tests/commands/test_augment.py make some",
    ),
    (r"reimagen rate", "waits for people to rate; tests/web/browser/test_rate.py and tests/commands/test_rate.py do"),
    (
        r"reimagen report (keep|tables)",
        "writes into the repository; tests/commands/test_report.py writes elsewhere",
    ),
    (
        r"evaluate (coco|wiki)|captions_(train|val)2014",
        "needs COCO or WikiImages; tests/commands/test_evaluate_protocols.py makes sets in their layouts",
    ),
    (r"evaluate judged", "people fill in the table first; tests/evaluation/entities/test_people.py does"),
    (
        r"tools/preflight",
        "needs '.[tpu]' or '.[cuda]', and minutes of compiling; tests/tools/test_preflight*.py run it",
    ),
    (r"retrieval.beam", "needs '.[beam]', in an environment of its own; tests/parity/test_beam.py runs it"),
    (r"^pip install|-m venv", "installs packages; CI does (.ci/run)"),
    (r"reimagen studio", "serves a page until Ctrl-C; tests/web/browser opens it"),
    (r"pytest|ruff|lint-imports", "the tests are a run of their own"),
    (r"gcloud|gs://|^pod|^export|--distributed", "needs a TPU pod"),
    (r"docker|spark-submit", "needs a cluster"),
    (r"runs/styles/(noto|quality)", "is about a set of emoji, which is not a part of the project"),
    (r"run_pages.py", "is this program"),
)
"""Commands that are listed with the reason why they do not run here."""

SLOW_COMPILER = re.compile(r"reimagen demo|ring|bench|cost")
"""What computes enough for optimised programs to be worth compiling."""
OVERWRITES = re.compile(
    r"reimagen (prepare|split|index|triples|sample|edit \w+|unclip \w+|rcg \w+|sweep|distill|export|encode-train|"
    r"report|rater train|evaluate people)\b.*--out "
)
WORKING_FIRST = (
    "reimagen_jax/inference",
    "reimagen_jax/evaluation",
    "reimagen_jax/preflight",
    "experiments/",
    "tools/",
)
"""Pages that use what the experiments' headers leave."""


@dataclass(frozen=True)
class RunPages:
    """Run the commands of the pages, on a small scale."""

    folder: Path | None = None
    """Folder to work in; it stays, and what was done there is not done again (default: a temporary one)."""
    list: bool = False
    """Run nothing, say what would be run."""
    only: str = ""
    """Run only commands in which this regular expression is found (with --folder: after the others were run)."""


def ordered() -> list[Path]:
    """Pages and headers in an order in which each finds what it needs."""
    small = [path for path in pages.headers() if path.stem.startswith(("images", "entityworld"))]
    small.sort(key=lambda path: int(re.search(r"\d+", path.stem).group()))
    others = [path for path in pages.headers() if path not in small]
    others.sort(key=lambda path: "64.py" not in path.name)
    all_pages = [page for page in pages.pages() if page.name != "RESULTS.md"]  # its commands measure for hours
    late = [page for page in all_pages if str(page.relative_to(pages.ROOT)).startswith(WORKING_FIRST)]
    return [*(page for page in all_pages if page not in late), *small, *others, *late]


def parts(command: pages.Command) -> Iterator[tuple[pages.Call | None, str]]:
    """What of a command is run by itself, each with the reason why it is not run here (empty where it is).

    A command that calls nothing of ours is one part, None.
    """
    for call in list(pages.calls(command)) or [None]:
        text = command.text if call is None else shlex.join(call.words)
        yield call, next((why for pattern, why in NOT_HERE if re.search(pattern, text)), "")


def small(call: pages.Call, folder: Path) -> list[str]:
    """The words of a call, made small. Raises `LookupError` where it is not known how."""
    text = shlex.join(call.words)
    extra = next((extra for pattern, extra in SMALL if re.search(pattern, text)), None)
    if extra is None:
        raise LookupError("run_pages.py does not know how to make it small, or why not to run it")
    words = [file for word in call.words for file in (sorted(map(str, _found(folder, word))) or [word])]
    overwrite = ["--overwrite"] if OVERWRITES.search(text) else []
    return [*words, *extra.split(), *overwrite]


def _found(folder: Path, word: str) -> list[Path]:
    return [path.relative_to(folder) for path in folder.glob(word)] if "*" in word else []


def run(call: pages.Call, folder: Path) -> tuple[bool, str]:
    """Runs a call: whether it ended well, and what it said."""
    words, text = small(call, folder), shlex.join(call.words)
    program = [sys.executable, "-m", "reimagen_jax.cli"] if words[0] == "reimagen" else [sys.executable]
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, **call.environment}
    path = [call.environment.get("PYTHONPATH"), str(pages.ROOT), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if not SLOW_COMPILER.search(text):
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    try:
        done = subprocess.run(
            [*program, *words[1:]],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as late:
        return False, f"{late.stdout or ''}\nnot done after {TIMEOUT} s"
    return done.returncode == 0, done.stdout


def make_inputs(folder: Path) -> None:
    """What the pages begin with: images with captions in every form that they name, prompts, captions, their files."""
    rng = np.random.default_rng(0)
    _photos(folder / "photos", rng, range(40))
    _photos(folder / "more", rng, range(40, 52))
    table = [_photo(rng, i) for i in range(8)]
    (folder / "DATASET").mkdir()
    columns = {
        "image": [{"bytes": data, "path": None} for data, _ in table],
        "text": [told["text"] for _, told in table],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "DATASET" / "train-00000-of-00001.parquet")
    for category in ("bird", "dog"):
        (folder / "Entity-Imagen" / category).mkdir(parents=True)
        rows = [
            {"image": {"bytes": data, "path": None}, "entity": told["entity"]}
            for data, told in table
            if told["category"] == category
        ]
        named = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(named, folder / "Entity-Imagen" / category / "train-00000-of-00001.parquet")
    (folder / "laion").mkdir()
    for i in range(128):
        data, told = _photo(rng, i)
        with tarfile.open(folder / "laion" / f"{i:05d}.tar", "w") as tar:
            for suffix, content in (("png", data), ("txt", told["text"].encode())):
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "a.png").write_bytes(_photo(rng, 0)[0])
    (folder / "a32.png").write_bytes(_photo(rng, 0, side=32)[0])
    mask = np.zeros((32, 32), np.uint8)
    mask[8:, 8:24] = 255
    PIL.Image.fromarray(mask).save(folder / "mask.png")
    (folder / "prompts.txt").write_text("a red bird on a tree\na blue dog\n")
    with gzip.open(folder / "captions0.jsonl.gz", "wt", encoding="utf-8") as file:
        for i in range(600):
            file.write(json.dumps({"id": i, "caption": _photo(rng, i, side=1)[1]["text"]}) + "\n")
    for name in ("experiments", "tools"):
        (folder / name).symlink_to(pages.ROOT / name)
    for page in pages.pages():
        for name, content in pages.python_files(page).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)


def _photos(folder: Path, rng: np.random.Generator, numbers: range) -> None:
    folder.mkdir()
    with (folder / "metadata.jsonl").open("w") as file:
        for i in numbers:
            data, told = _photo(rng, i)
            (folder / f"{i}.png").write_bytes(data)
            file.write(json.dumps({"file_name": f"{i}.png", **told}) + "\n")


def _photo(rng: np.random.Generator, number: int, side: int = 64) -> tuple[bytes, dict[str, str]]:
    """A picture (PNG), no two alike, and what is told of it."""
    colour, animal = ("red", "green", "blue")[number % 3], ("bird", "dog")[number % 2]
    name = f"{animal}{number % 10}"
    image = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side), PIL.Image.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG")
    licence, style = ("CC0", "unknown")[number % 4 == 0], ("ink", "oil")[number // 10 % 2]
    text = f"a {colour} {animal} called {name} on {rng.choice(['a mat', 'a tree', 'the beach', 'a hill', 'the grass'])}"
    return file.getvalue(), {"text": text, "entity": name, "category": animal, "style": style, "licence": licence}


def run_all(args: RunPages, folder: Path) -> int:
    """Runs what is to be run in `folder`, prints a line for each part and returns how many failed."""
    done_file = folder / "done.txt"
    if not done_file.exists():
        make_inputs(folder)
        done_file.touch()
    done = set(done_file.read_text().splitlines())
    counts = Counter()
    for command in (command for page in ordered() for command in pages.commands(page)):
        for call, why in parts(command):
            text = command.text if call is None else shlex.join([*map("=".join, call.environment.items()), *call.words])
            if not re.search(args.only, text):
                continue
            start, verdict, said = time.monotonic(), "not here", why
            if not why:
                verdict, said = ("as before", "") if text in done else _run_part(call, folder)
            if verdict == "ok":
                done.add(text)
                done_file.write_text("\n".join(sorted(done)) + "\n")
            counts[verdict] += 1
            print(f"{verdict:<9} {time.monotonic() - start:6.1f} s  {command.place:<46} {_short(text)}", flush=True)
            if verdict in ("not here", "failed"):
                print("\n".join(f"            {line}" for line in said.strip().splitlines()[-25:]), flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return counts["failed"]


def _run_part(call: pages.Call | None, folder: Path) -> tuple[str, str]:
    if call is None:
        return "failed", "run_pages.py does not know what to run of it, or why not to"
    try:
        fine, said = run(call, folder)
    except LookupError as error:
        fine, said = False, str(error)
    return "ok" if fine else "failed", said


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def show(folder: Path) -> None:
    """Prints what would be run."""
    for command in (command for page in ordered() for command in pages.commands(page)):
        print(f"{command.place}: {_short(command.text)}")
        for call, why in parts(command):
            print(f"    {f'not here: {why}' if why or call is None else shlex.join(small(call, folder))}")


def main(args: RunPages) -> int:
    """Runs, or lists; the exit status."""
    if args.list:
        show(Path())
        return 0
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        return min(run_all(args, args.folder.resolve()), 1)
    with tempfile.TemporaryDirectory(prefix="reimagen_pages_") as folder:
        return min(run_all(args, Path(folder)), 1)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(RunPages, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))))
