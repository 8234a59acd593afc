"""Re-Imagen in JAX and Flax: retrieval-augmented text-to-image generation.

From Python: `open_model`, `open_knowledge_base`, `open_encoder`, `ask`, `draw`, `draw_into`, `edit`, `seed_select`,
`sweep` (api/). They are imported when they are asked for: `import reimagen_jax` alone brings neither JAX nor anything
else.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
__all__ = [
    "Drawing",
    "__version__",
    "ask",
    "draw",
    "draw_into",
    "edit",
    "open_encoder",
    "open_knowledge_base",
    "open_model",
    "seed_select",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("reimagen_jax.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
