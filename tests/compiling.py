"""How the tests compile: their programs are tiny and run a few times, so that compiling is what a test costs."""

import importlib.metadata

VERSION = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1" if VERSION < (0, 11) else ""
"""Of XLA (`XLA_FLAGS`; it ends a process over one that it does not know): the older emitters compile twice as fast."""
