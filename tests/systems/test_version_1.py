"""What earlier versions wrote opens: their experiments, when every experiment was a Re-Imagen, mean the same today."""

import json
from pathlib import Path

import pytest

from reimagen_jax.config import differences, load_experiment, to_json
from reimagen_jax.errors import UserError
from reimagen_jax.systems import kinds
from reimagen_jax.training.checkpoint import read_run, settle

OLD = sorted((Path(__file__).parent / "version_1").glob("*.json"))
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ONE_MAP = {f"unet.levels.{i}.neighbour_attention": (True, False) for i in (1, 2)}
SHOWN = {"data.min_neighbours": (0, 2)}
FID = {"train.clip_norm": (1.0, None)} | {f"sampler.{of}_weight": (5.0, 1.35) for of in ("text", "neighbour")}
CHANGED = {
    "re_imagen_64": ONE_MAP | SHOWN | FID,
    "re_imagen_64_small": ONE_MAP | SHOWN | FID,
    "re_imagen_256": SHOWN
    | FID
    | {f"sampler.{of}_weight": (5.0, 8.0) for of in ("text", "neighbour")}
    | {"unet.levels.3.attention_every": (1, 8)},
    "re_imagen_1024": {
        "train.clip_norm": (1.0, None),
        "sampler.text_weight": (5.0, 8.0),
        "unet.text_pooling": ("score", "attention"),
    },
    "if_finetune_64": ONE_MAP | SHOWN,
    "if_finetune_256": SHOWN | {"unet.levels.3.neighbour_attention": (True, False)},
    "images32": {
        "init.weights": ("", "shipped"),
        "sampler.text_weight": (3.0, 2.0),
        "sampler.neighbour_weight": (8.0, 3.0),
        "train.learning_rate": (1e-3, 7e-4),
        "train.warmup_steps": (200, 100),
    },
    "entityworld32": {"sampler.num_steps": (25, 6), "sampler.guidance": ("interleaved", "stratified")},
}
"""What later versions have brought nearer to the papers, or measured: (as version 0.1 had it, as the experiment has it
today)."""


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_experiment_written_by_version_0_1_is_read_as_it_was_written(path):
    """It is today's experiment but for what has been changed since, and there it keeps its own."""
    old, today = kinds.from_json(path.read_text()), load_experiment(EXPERIMENTS / f"{path.stem}.py")
    expected = {name: f"{name}: {was!r} != {now!r}" for name, (was, now) in CHANGED.get(path.stem, {}).items()}
    assert differences(old, today) == expected
    assert (old == today) == (not expected)
    assert kinds.from_json(to_json(old)) == old


def test_the_drops_of_text_and_neighbours_were_settings_of_training():
    fields = json.loads(OLD[0].read_text())
    fields["train"] |= {"text_drop": 0.25, "neighbour_drop": 0.5}
    system = kinds.from_dict(fields).system
    assert (system.text_drop, system.neighbour_drop) == (0.25, 0.5)


def test_a_run_that_version_0_1_began_goes_on(tmp_path):
    fields = json.loads(OLD[0].read_text())
    run = {"format": 1, "data": "fingerprint", "history": [], "experiment": fields}
    (tmp_path / "run.json").write_text(json.dumps(run))
    config = load_experiment(EXPERIMENTS / f"{OLD[0].stem}.py")
    assert settle(tmp_path, config, "fingerprint", 3) == config
    assert read_run(tmp_path)["experiment"]["system"]["kind"] == "reimagen"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": {"kind": "dreams"}}, "kind 'dreams' is not known"),
        ({"unet": {"colour": 3}}, "no setting that this version knows"),
        ({"colour": 3}, "no setting that this version knows"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        kinds.from_dict(json.loads(OLD[0].read_text()) | change)
