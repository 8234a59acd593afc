"""Every command of the program on small specimens, for kill.py: what it finds, what it is called with."""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import pages
import specimens
from kill import Scenario
from tqdm import tqdm

from reimagen_jax import cli
from reimagen_jax.commands import (  # noqa: F401 (imported before processes are forked, so that each is quick)
    augment,
    demo,
    distill,
    embed,
    encode_train,
    evaluate,
    export,
    index,
    prepare,
    rater,
    rcg,
    report,
    sample,
    search,
    sweep,
    train,
    triples,
    unclip,
)
from reimagen_jax.data import preparing, records
from reimagen_jax.data.entityworld import World
from reimagen_jax.data.image_text import ImageText
from reimagen_jax.data.sources import WorldSource
from reimagen_jax.evaluation import rater_check  # noqa: F401
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase

tqdm.set_lock(threading.RLock())  # one of processes would be left behind by those that are killed
records.RECORDS_PER_SHARD = augment.SHARD = augment.SEARCHED_SHARD = 2  # so that little is much
FEW = "--num-images 1 --steps 1"
EXPERIMENT = "from specimens import {} as config\n"


def write_specimens(folder: Path) -> None:
    """The specimens, experiment files, and a world with a base."""
    specimens.write(folder)
    for name, file in (("EXPERIMENT", "experiment.py"), ("PRIOR", "prior.py"), ("VQ", "vq.py"), ("MAGE", "mage.py")):
        (folder / file).write_text(EXPERIMENT.format(name), encoding="utf-8")
    world = World(num_entities=8, num_images=48)
    settings = {"where": [], "resolution": 32, "world": vars(world)}
    drawn = preparing.prepare_records(WorldSource(world, resolution=32), folder / "world", settings=settings)
    KnowledgeBase.build(drawn, folder / "world_base")
    _write_coco(folder / "coco", drawn.fetch(range(4)))
    shutil.copytree(pages.ROOT / "experiments" / "results", folder / "results")


def _write_coco(folder: Path, shown: Iterable[ImageText]) -> None:
    """Records as COCO is published, a caption each."""
    images, captions = [], []
    (folder / "val2014").mkdir(parents=True)
    for number, record in enumerate(shown):
        images.append({"id": number, "file_name": f"{number}.png"})
        captions.append({"id": number, "image_id": number, "caption": record.text})
        (folder / "val2014" / f"{number}.png").write_bytes(record.image)
    told = json.dumps({"images": images, "annotations": captions})
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val2014.json").write_text(told, encoding="utf-8")


def run(words: list[str]) -> int:
    """A command line; its status."""
    return cli.main(words)


def restored(workdir: Path) -> dict[str, str]:
    """The checkpoints of a run: step -> digest of all arrays of its state, and of its position in the data."""
    import orbax.checkpoint as ocp

    found, path = {}, workdir.absolute() / "checkpoints"
    for step in ocp.utils.checkpoint_steps(path):
        content = hashlib.sha256()
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(path / str(step) / "state").tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            state = reader.restore(path / str(step) / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        for leaf in jax.tree.leaves(state):
            content.update(np.asarray(leaf).tobytes())
        for file in sorted((path / str(step) / "data").glob("*.json")):
            content.update(file.read_bytes())
        found[str(step)] = content.hexdigest()
    return found


_WORLD = "--world.num-entities 4 --world.num-images 24 --resolution 16"
_TRAIN = "--train.checkpoint-every 1 --train.log-every 1 --train.num-steps 3"
_BASE = ("records", "base")
SCENARIOS = {
    "prepare folder": Scenario("prepare --source sources/jsonl --out out", ("sources/jsonl",)),
    "prepare world": Scenario(f"prepare --out out {_WORLD}", ()),
    "prepare overwrite": Scenario(
        "prepare --source sources/jsonl --out out --overwrite", ("sources/jsonl", "records:out"), ("out",)
    ),
    "split": Scenario("split records --out out --by entity --unseen 0.3", ("records",)),
    "index": Scenario("index records more --out out", ("records", "more")),
    "index vectors": Scenario("index records --encoder encoder --out out", ("records", "encoder")),
    "index overwrite": Scenario("index more --out base --overwrite", (*_BASE, "more"), ("base",)),
    "index append": Scenario("index more --append-to base", (*_BASE, "more"), ("base",)),
    "index append out": Scenario("index more --append-to base --out out", (*_BASE, "more"), ("base",)),
    "index delete": Scenario("index base --delete k1 k2", _BASE, ("base",)),
    "index merge": Scenario("index base another --merge --out out", (*_BASE, "more", "another"), ("base", "another")),
    "triples": Scenario("triples records --knowledge-base base --out out", _BASE),
    "triples overwrite": Scenario(
        "triples records --knowledge-base base --out triples --num-neighbours 1 --overwrite",
        (*_BASE, "triples"),
        ("triples",),
    ),
    "embed": Scenario("embed records --text-encoder t5 --text-embeddings out --text-tokens 8", ("records", "t5")),
    "embed more": Scenario(
        "embed records more --text-encoder t5 --text-embeddings out --text-tokens 8", ("records", "more", "t5")
    ),
    "train": Scenario(
        f"train experiment.py --workdir work --data.triples triples {_TRAIN}", (*_BASE, "triples", "experiment.py")
    ),
    "train on": Scenario(
        f"train experiment.py --workdir run --data.triples triples {_TRAIN}",
        (*_BASE, "triples", "experiment.py", "run"),
    ),
    "train prior": Scenario(
        f"train prior.py --workdir work --data.records records --init.weights encoder_clip {_TRAIN}",
        ("records", "encoder_clip", "prior.py"),
    ),
    "train tokenizer": Scenario(
        f"train vq.py --workdir work --data.records records --init.weights encoder_images {_TRAIN}",
        ("records", "encoder_images", "vq.py"),
    ),
    "train mage": Scenario(
        f"train mage.py --workdir work --data.records records --init.weights vq --init.beside encoder_images {_TRAIN}",
        ("records", "vq", "encoder_images", "mage.py"),
    ),
    "encode-train": Scenario(
        "encode-train records --out out --resolution 8 --width 8 --max-bytes 8 --num-steps 2 --batch-size 2 "
        "--held-out 0.4",
        ("records",),
    ),
    "distill": Scenario(
        "distill --model model --triples triples --out out --num-steps 2 --batch-size 2", (*_BASE, "triples", "model")
    ),
    "export": Scenario("export model --out out", ("model",)),
    "export overwrite": Scenario("export run --out model --overwrite", ("run", "model"), ("model",)),
    "sample": Scenario(f"sample --model model --knowledge-base base --prompt cat --out out {FEW}", (*_BASE, "model")),
    "edit": Scenario(
        f"edit vary --model model --knowledge-base base --prompt cat --strength 1 --out out {FEW}", (*_BASE, "model")
    ),
    "sample by a prior": Scenario(
        f"sample --model prior --cascade decoder,steps=1 --prompt cat --out out {FEW}", ("prior", "decoder")
    ),
    "unclip vary": Scenario(
        "unclip vary pictures/rgb.png --model decoder --out out --stochasticity 1 --num-images 1 --steps 2",
        ("pictures", "decoder"),
    ),
    "unclip components": Scenario(
        "unclip components pictures/rgb.png --records records --dims 1 --model decoder --out out --steps 2",
        ("pictures", "records", "decoder"),
    ),
    "rcg draw": Scenario("rcg draw --model rdm --cascade mage --out out --num-images 1 --steps 1", ("rdm", "mage")),
    "rcg reconstruct": Scenario(
        "rcg reconstruct pictures/rgb.png --model mage --out out --num-images 1", ("pictures", "mage")
    ),
    "sample many": Scenario(
        "sample --model model --prompt a b c d --out out --num-images 3 --steps 1 --batch-size 2", (*_BASE, "model")
    ),
    "augment": Scenario(
        "augment records --model model --out out --variants 2 --steps 1 --batch-size 2", ("records", "model")
    ),
    "augment by a search": Scenario(
        "augment records --model model --encoder encoder --out out --variants 1 --steps 2 --iterations 1 --low-pass 4 "
        "--batch-size 2",
        ("records", "model", "encoder"),
    ),
    "sweep": Scenario(
        f"sweep --model model --knowledge-base base --prompt cat --out out --etas 0 1 {FEW}", (*_BASE, "model")
    ),
    "grid": Scenario(
        f"sweep --model model --knowledge-base base --prompt cat --out out --over eta=0,1 --over seed=0,1 {FEW}",
        (*_BASE, "model"),
    ),
    "search": Scenario("search base cat --sheet sheet.png", _BASE),
    "evaluate": Scenario(
        "evaluate entities --model shipped --knowledge-base world_base --out out --num-prompts 2 --splits unseen "
        f"--conditions none retrieval --ks --etas --k 1 {FEW}",
        ("world", "world_base"),
    ),
    "coco": Scenario(
        "evaluate coco --captions coco/annotations/captions_val2014.json --count 3 --model shipped --features rater "
        f"--out out --database none own=world_base --k 1 --batch-size 2 {FEW}",
        ("coco", "world", "world_base"),
    ),
    "fewshot": Scenario(
        "evaluate fewshot world --out out --class-by category --learners net --net-side 8 --net-steps 2 --queries 1 "
        "--variants 1 --episodes 2 --shots 1 --ways 2",
        ("world",),
    ),
    "report": Scenario("report page results --out out", ("results",)),
    "rater": Scenario("rater train --out out --resolution 32 --num-steps 1 --batch-size 2 --num-images 2", ()),
    "demo": Scenario("demo --out out --num-prompts 1", ()),
}
"""Name -> command."""
