"""Settings of evaluations that commands have options for."""

from typing import Literal

Resize = Literal["bicubic", "lanczos", "area"]
"""How larger pictures come down to the side at which sets are compared (protocol.py)."""
