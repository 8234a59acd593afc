"""The tours, experiments/tour_*.py, run from beginning to end as a reader would run them, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.compiling import FLAGS

ROOT = Path(__file__).parents[1]
TOURS = sorted((ROOT / "experiments").glob("tour_*.py"))


@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: tour.stem)
def test_a_tour_runs_and_writes_what_it_tells_of(tour, tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": FLAGS,  # one device, and programs that run once
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, tour], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["runs"] and os.listdir(tmp_path / "runs") == [tour.stem]
    written = [path for pattern in ("*.png", "*.html") for path in (tmp_path / "runs").rglob(pattern)]
    assert any(path.stat().st_size > 10_000 for path in written) and all(path.stat().st_size > 0 for path in written)


def test_every_cell_begins_with_its_mark():
    """So that an editor cuts the file into cells; what is not code is Markdown."""
    for tour in TOURS:
        lines = tour.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "# %% [markdown]"
        text = False
        for line in lines:
            if line.startswith("# %%"):
                assert line in ("# %%", "# %% [markdown]")
                text = line.endswith("[markdown]")
            elif text:
                assert line == "" or line.startswith("#")
