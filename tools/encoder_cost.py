"""What a T5 encoder costs here: seconds to read it, memory, seconds to encode; random weights of the real shapes.

    python tools/encoder_cost.py --size xxl --scratch /tmp/t5xxl [--dtype bfloat16] [--tokens 77] [--texts 1 8]

Writes a checkpoint as Hugging Face publishes it (several safetensors files with an index, 9.5 GB for XXL in bfloat16)
to --scratch, or takes the one that is there, and reads it as `encoders.t5.open` does. The memory told is the process's
own (RssAnon): pages of the files that the system keeps cached and may drop are not counted.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class EncoderCost:
    """Measure reading a T5 encoder and encoding with it."""

    scratch: Path
    """Folder of the checkpoint, written when it is empty; it is left there."""
    size: Literal["small", "base", "large", "xl", "xxl"] = "xxl"
    """Of version 1.1."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the file and of the computation."""
    tokens: int = 77
    """Length of every text."""
    texts: tuple[int, ...] = (1, 8)
    """Batches to time."""
    rounds: int = 2
    """Each, after one that compiles; the fastest is told."""


def main(args: EncoderCost) -> None:
    """Writes, reads, encodes; prints a line for each."""
    import jax
    import jax.numpy as jnp

    from reimagen_jax.encoders import t5
    from reimagen_jax.pretrained.safetensors_reader import open_checkpoint

    config = t5.V1_1[args.size]
    expected = t5.abstract_params(config, args.dtype)
    if not (args.scratch / "model.safetensors.index.json").is_file():
        write_random(args.scratch, expected, config, args.dtype)
    stays = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(expected))
    count = sum(leaf.size for leaf in jax.tree.leaves(expected))
    print(f"T5 v1.1 {args.size}: {count / 1e6:.0f}M parameters, {stays / 2**30:.2f} GiB in {args.dtype}")
    with watched("read") as report:
        params = t5.load_params(open_checkpoint(args.scratch), config, args.dtype)
    print(report())
    encode = t5.block_by_block(t5.T5Encoder(config, args.dtype))
    for batch in args.texts:
        tokens = jax.random.randint(jax.random.key(0), (batch, args.tokens), 2, config.vocabulary)
        mask = jnp.ones(tokens.shape, bool)
        with watched(f"compile, then {batch} x {args.tokens} tokens") as report:
            jax.block_until_ready(encode(params, tokens, mask))
        print(report())
        for _ in range(args.rounds):
            with watched(f"{batch} x {args.tokens} tokens") as report:
                jax.block_until_ready(encode(params, tokens, mask))
            print(report())


def write_random(folder: Path, expected: Any, config: Any, dtype: str) -> None:
    """A checkpoint of random weights; a large tensor repeats a million numbers, which costs a computer nothing less."""
    import jax.numpy as jnp
    import numpy as np
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    from reimagen_jax.encoders import t5

    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0).normal(size=2**20)
    part, parts, size = {}, [], 0

    def flush() -> None:
        parts.append((f"part-{len(parts)}.safetensors", list(part)))
        save_file(part, folder / parts[-1][0])
        part.clear()

    for path, leaf in flatten_dict(expected, sep="/").items():
        source = t5.source(path, config)
        shape = leaf.shape[::-1] if source.axes else leaf.shape
        scale = 1.0 if path.endswith(("scale", "embedding")) else leaf.shape[0] ** -0.5
        part[source.name] = np.resize((numbers * scale).astype(jnp.dtype(dtype)), shape)
        size += part[source.name].nbytes
        if size > SHARD_BYTES:
            flush()
            size = 0
    flush()
    weight_map = {name: file for file, names in parts for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


@contextmanager
def watched(what: str) -> Iterator[Any]:
    """Yields a function that tells, after the block, how long it took and the most memory it had."""
    peak, stop = [own_memory()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start, start_cpu, taken = time.perf_counter(), time.process_time(), []
    try:
        yield lambda: f"{what}: {taken[0]:.1f} s ({taken[1]:.1f} CPU-s), at most {peak[0] / 2**30:.2f} GiB"
    finally:
        taken += [time.perf_counter() - start, time.process_time() - start_cpu]
        stop.set()
        watcher.join()


def own_memory() -> int:
    """Bytes of this process's own memory (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])


if __name__ == "__main__":
    main(tyro.cli(EncoderCost, description=__doc__))
