"""tools/sampler_bench.py: evaluations are those that are made, rows are drawn once, and a table tells of them."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tyro

from reimagen_jax.diffusion import sampler, schedule, solvers
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.inference.pipeline import Pipeline
from reimagen_jax.nets.unet import Condition
from reimagen_jax.systems.reimagen.condition import Inputs, guide_of
from tests.tiny import TINY

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import sampler_bench


@pytest.mark.parametrize(
    ("guidance", "solver", "expected"),
    [("interleaved", "ddpm", 8), ("joint", "unipc", 8), ("compositional", "ddim", 12), ("stratified", "heun", 14)],
)
def test_evaluations_are_counted(guidance, solver, expected):
    B, seen, process = 3, [], DiffusionConfig()
    settings = replace(TINY.system.sampler, guidance=guidance, solver=solver, num_steps=4)
    inputs = Inputs(*[None] * 4, eta_B=jnp.full(B, 0.5), text_weight_B=jnp.full(B, 2.0), neighbour_weight_B=jnp.ones(B))
    condition = Condition(jnp.zeros((B, 1, 1)), jnp.ones((B, 1), bool))
    keys_B = sampler.image_keys(0, range(B))

    def denoise(x, t_B, condition):
        seen.append(len(x))
        return x

    with jax.disable_jit():
        sampler.sample(
            denoise,
            condition,
            jnp.ones((B, 2)),
            keys_B,
            schedule.times(4, process),
            process,
            solvers.solver_of(settings, process),
            guide_of(settings, inputs, keys_B),
            sampler.projection(settings),
        )
    assert sum(seen) == B * expected == B * TINY.system.evaluations(settings)


def test_what_is_not_guided_needs_one_evaluation_a_step():
    settings = replace(TINY.system.sampler, text_weight=1.0, neighbour_weight=1.0, num_steps=5)
    assert TINY.system.evaluations(settings, guided=False) == 5


def test_forms_of_guidance_are_compared_at_equal_evaluations(tmp_path):
    rows = list(sampler_bench.Guided(tmp_path, tmp_path, evaluations=48).rows(TINY.system))
    assert {row.told["evaluations"] for row in rows} == {48}
    assert {(row.told["guidance"], row.told["steps"]) for row in rows} == {
        ("interleaved", 24),
        ("stratified", 24),
        ("joint", 24),
        ("compositional", 16),
        ("none", 48),
    }


@pytest.mark.parametrize("kind", ["steps", "guidance"])
def test_rows_are_drawn_once(kind, base, model, tmp_path, monkeypatch, capsys):
    what = {"knowledge_base": base.path, "out": tmp_path / "out", "model": model, "num_prompts": 2, "batch_size": 2}
    if kind == "steps":
        command = sampler_bench.Steps(**what, splits=("unseen",), reference_steps=2, steps=(1,), solvers=("ddim",))
    else:
        only = {"forms": ("joint",), "variants": ("cosine",), "weights": ((2.0, 1.0), (1.0, 3.0))}
        command = sampler_bench.Guided(**what, splits=("unseen",), evaluations=3, **only)
    command.run()
    table, out = (tmp_path / "out/table.md").read_text(), capsys.readouterr().out
    written = json.loads((tmp_path / "out/results.json").read_text())
    assert written["complete"] and len(written["rows"]) == 4
    assert table.count("\n| ") == len(written["rows"]) + 1
    assert tyro.cli(sampler_bench.COMMANDS, args=shlex.split(written["command"])[2:]) == command
    assert all(entry["faithful, difference"][0] == 0.0 for entry in written["rows"][:1])
    assert (tmp_path / "out/picture.png").is_file() and str(tmp_path / "out/table.md") in out
    monkeypatch.setattr(Pipeline, "__call__", lambda *_: pytest.fail("drawn again"))
    command.run()
    assert (tmp_path / "out/table.md").read_text() == table
