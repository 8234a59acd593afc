"""tools/preflight_table.py: what is tried, what is kept, what the page says. Nothing is compiled."""

import dataclasses
import json
import subprocess
from pathlib import Path

import jax
import pytest

from reimagen_jax import randomness
from reimagen_jax.preflight.topology import parse_topology
from reimagen_jax.systems import kinds
from tools import preflight, preflight_table
from tools.preflight_table import ROWS, PreflightTable, Row, tries

ROW = Row("Small", "if_finetune_64", "train", 16, {"h100:2": (2, 2), "l4:1": (1, 1)})


def figures(fits, sound=True):
    """What preflight.py writes, or as much of it as is kept, and a list that is not."""
    memory = {"held": {"parameters": 2**30}, "temporaries": 2**31, "peak": 3 * 2**30, "available": 20 * 2**30}
    one = {"queries": 4, "keys": 6, "fused": True, "places": ["a", "b"]}
    roofline = {"bound": 0.25, "limit": "memory", "mfu": 0.5}
    told = {"fits": fits, "sound": sound, "memory": memory, "roofline": roofline, "notes": [], "collectives": []}
    told |= {"model_flops": 2e12, "flops": 1e12, "hbm_traffic": 3e9}
    return told | {"attentions": [one, one | {"fused": False}]}


@pytest.fixture
def compiler(monkeypatch):
    """Stands in for preflight.py: what it was asked, and a program that fits from `accumulate` on."""
    asked, needs = [], {"accumulate": 4, "fails": False, "sound": True}

    def run(words, **_):
        asked.append(words)
        if needs["fails"]:
            return subprocess.CompletedProcess(words, 1, "", "Traceback\nRuntimeError: it broke")
        accumulate = int(words[words.index("--train.accumulate") + 1])
        also = words[words.index("--also") + 1 : words.index("--json")] if "--also" in words else []
        one = figures(accumulate >= needs["accumulate"], needs["sound"])
        Path(words[-1]).write_text(json.dumps([one] + [figures(fits=True)] * len(also)))
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(preflight_table, "ROWS", (ROW,))
    return asked, needs


@pytest.fixture
def args(tmp_path):
    return PreflightTable(tmp_path / "kept.json", tmp_path / "page.md")


def test_micro_batches_are_halved_until_it_fits(compiler, args):
    asked, _ = compiler
    assert preflight_table.run(args) == 0
    accumulated = [words[words.index("--train.accumulate") + 1] for words in asked]
    assert accumulated == ["2", "4", "1", "2", "4"]  # of two cards, then of one
    lines = [line for line in args.out.read_text().splitlines() if line.startswith("| Small")]
    assert lines == [
        "| Small | `h100:2` | 16 | 4 | 2 | 1.0 + 2.0 | 20.0 | fits | 0.25 s (memory) | 50% | 2 of 4 |",
        "| Small | `l4:1` | 16 | 4 | 1 | 1.0 + 2.0 | 20.0 | fits | 0.25 s (memory) | 50% | 2 of 4 |",
    ]


def test_cards_that_run_the_same_code_share_a_program_until_each_fits(compiler, args, monkeypatch):
    asked, _ = compiler
    row = dataclasses.replace(ROW, on={"l4:1": (1, 1), "h100:1": (1, 1), "rtx4090:1": (1, 1), "h200:1": (1, 2)})
    monkeypatch.setattr(preflight_table, "ROWS", (row,))
    assert preflight_table.run(args) == 0
    told = [(words[words.index("--topology") + 1], "--also" in words) for words in asked]
    assert told[:3] == [("l4:1", True), ("l4:1", False), ("l4:1", False)]  # the other fitted at once
    assert [topology for topology, _ in told[3:]] == ["h100:1"] * 3 + ["h200:1"] * 2  # begins elsewhere: its own
    accumulated = {
        topology: cell["settings"]["accumulate"]
        for topology, cell in json.loads(args.kept.read_text())["Small, train, 16"].items()
    }
    assert accumulated == {"l4:1": 4, "rtx4090:1": 1, "h100:1": 4, "h200:1": 4}


def test_activations_that_travel_are_told(compiler, args):
    _, needs = compiler
    needs["sound"] = False
    assert preflight_table.run(args) == 0
    assert args.out.read_text().count("| fits, **activations travel** |") == 2


def test_what_is_kept_names_no_path_and_has_no_long_lists(compiler, args):
    preflight_table.run(args)
    text = args.kept.read_text()
    assert str(preflight_table.ROOT) not in text and "places" not in text
    assert json.loads(text)["Small, train, 16"]["l4:1"]["command"].startswith("tools/preflight.py experiments/if_")


def test_what_is_not_compiled_yet_is_told_until_all_is(compiler, args):
    preflight_table.run(dataclasses.replace(args, limit=0))
    told = args.out.read_text().partition("## Not compiled yet")[2]
    assert "2 of 2." in told and "- Small (training): `h100:2`, `l4:1`" in told
    preflight_table.run(dataclasses.replace(args, limit=1))
    told = args.out.read_text().partition("## Not compiled yet")[2]
    assert "1 of 2." in told and "- Small (training): `l4:1`" in told
    preflight_table.run(args)
    assert "Not compiled yet" not in args.out.read_text()


def test_the_page_in_the_repository_is_of_what_is_kept_there():
    """Change neither by hand: `python tools/preflight_table.py --limit 0` writes the page."""
    default = PreflightTable()
    kept = json.loads(default.kept.read_text())
    assert default.out.read_text() == preflight_table.page(kept)
    assert {(row.key, topology) for row in ROWS for topology in row.on} >= {(k, on) for k in kept for on in kept[k]}


def test_what_is_kept_is_not_compiled_again(compiler, args):
    asked, _ = compiler
    preflight_table.run(args)
    page = args.out.read_text()
    asked.clear()
    args.out.unlink()
    assert preflight_table.run(args) == 0
    assert asked == [] and args.out.read_text() == page


def test_what_does_not_fit_at_all_stands_there(compiler, args):
    asked, needs = compiler
    needs["accumulate"] = 1000
    assert preflight_table.run(args) == 0
    assert args.out.read_text().count("**does not fit**") == 2
    assert asked[-1][asked[-1].index("--train.accumulate") + 1] == "16"  # one image at once


def test_what_does_not_compile_is_told_and_tried_again(compiler, args):
    asked, needs = compiler
    needs["fails"] = True
    assert preflight_table.run(args) == 1
    kept = json.loads(args.kept.read_text())
    assert "it broke" in kept["Small, train, 16"]["l4:1"]["failed"]
    assert args.out.read_text().count("**does not compile**") == 2
    needs["fails"] = False
    asked.clear()
    assert preflight_table.run(args) == 0 and asked
    assert "does not compile" not in args.out.read_text()


def test_some_of_it_can_be_asked_for(compiler, args, tmp_path):
    asked, _ = compiler
    preflight_table.run(PreflightTable(args.kept, args.out, on=("l4:1",)))
    assert {words[words.index("--topology") + 1] for words in asked} == {"l4:1"}
    asked.clear()
    preflight_table.run(PreflightTable(args.kept, args.out, only=("sampler",)))
    preflight_table.run(PreflightTable(args.kept, args.out, limit=0))
    assert asked == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"on": ("h1000:1",)}, "did you mean h100"),
        ({"cuda": Path("no/such/python")}, "no/such/python is no Python"),
        ({"kept": Path(__file__)}, "test_preflight_table.py"),
    ],
)
def test_wrong_input_ends_with_status_2_and_one_line(compiler, args, capsys, wrong, says):
    assert preflight_table.main(dataclasses.replace(args, **wrong)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert compiler[0] == []


def test_each_kind_of_device_has_its_own_environment():
    args = PreflightTable(Path("kept"), Path("out"), cuda=Path("c/python"), tpu=Path("t/python"))
    row = Row("Small", "re_imagen_64", "sampler", 4, {"l4:1": (1, 1), "v5e:2x2": (1, 1)}, "--sampler.eta 0.2")
    card, tpu = (preflight_table.command(row, [on], {"sample_images": 4}, args) for on in row.on)
    assert (card[0], tpu[0]) == ("c/python", "t/python") and "--quick" in tpu and "--quick" not in card
    assert card[-5:] == ["--sampler.eta", "0.2", "--sample-images", "4", "--json"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}, {row.what}")
def test_every_row_begins_with_settings_that_its_devices_can_share(row):
    for topology in row.on:
        size, (fsdp, _) = parse_topology(topology).size, row.on[topology]
        assert size % fsdp == 0
        first = next(tries(row, topology))
        assert first.get("sample_images", first.get("batch", 0)) % size == 0


PUBLISHED = {preflight_table.LARGE: 0.935e9, preflight_table.XL: 4.3e9}
"""IF's first stage, by the options of its size (experiments/if_finetune_64.py)."""


@pytest.mark.parametrize("options", sorted({row.options for row in ROWS}))
def test_options_of_rows_are_settings_and_make_networks_of_the_published_size(options):
    row = next(row for row in ROWS if row.options == options)
    words = preflight_table.command(row, [next(iter(row.on))], {"batch": 64}, PreflightTable(Path("kept"), Path("out")))
    settings = preflight.parse([*words[2:], "figures.json"]).settings
    assert settings.data.batch_size == 64
    params = jax.eval_shape(lambda: kinds.system_of(settings).init(randomness.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    told = [size for name, size in PUBLISHED.items() if name in options]
    assert count == pytest.approx(told[0] if told else count, rel=0.03)
