"""`python -m reimagen_jax` is the command `reimagen`."""

import sys

from reimagen_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
