"""tools/fuzz.py, flip.py, kill.py: they find what is planted (planted.py), and do not accuse what is sound."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))  # its files import each other as they do when they run
import mutations

ROOT = Path(__file__).parents[2]
MODULE = "tests.tools.planted"


def tool(name, *args, module=MODULE, cwd=ROOT):
    """Status and output of a tool, asked about a module: the planted one."""
    words = [sys.executable, str(ROOT / "tools" / f"{name}.py"), "--module", module, *map(str, args)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(words, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def rows(printed):
    """A table's lines: name -> numbers."""
    found = {}
    for line in printed.splitlines():
        if match := re.match(r"([\w:. /]+?)\s{2,}([\d. s]+)", line):
            found[match[1]] = [float(number) for number in re.findall(r"[\d.]+", match[2])]
    return found


def test_the_fuzzer_finds_what_raises_hangs_eats_memory_and_aborts(tmp_path):
    names = ("sound", "raises", "hangs", "eats", "aborts")
    limits = ("--timeout", 1, "--memory", 0.4, "--findings", tmp_path / "findings")
    status, printed = tool("fuzz", "--inputs", 15, "--workers", 1, *limits, "--targets", *names)
    assert status == 1
    for says in ("raises: KeyError", "hangs: no answer in", "eats: more than", "aborts: the process ended: SIGABRT"):
        assert says in printed
    told = rows(printed)
    inputs, ok, refused, findings, *_ = told["sound"]
    assert inputs == ok + refused == 3 and findings == 0
    assert all(told[name][3] == told[name][0] == 3 for name in names[1:])
    kept = next((tmp_path / "findings").glob("raises-*.json"))
    assert json.loads(kept.read_text())["target"] == "raises"
    status, printed = tool("fuzz", "--replay", kept)
    assert status == 1 and "now: KeyError" in printed


def test_the_fuzzer_does_not_accuse_an_input_of_what_the_interpreter_stumbles_over(tmp_path):
    limits = ("--inputs", 3, "--workers", 1, "--findings", tmp_path / "findings")
    status, printed = tool("fuzz", *limits, "--targets", "stumbles")
    assert status == 0 and rows(printed)["stumbles"][:4] == [3, 3, 0, 0], printed
    assert not (tmp_path / "findings").exists()


def test_every_reader_reads_its_specimens_as_they_are(tmp_path):
    """Or a change of what the program writes would leave its readers, and these, behind."""
    status, printed = tool("fuzz", "--inputs", 1, "--findings", tmp_path / "findings", module="readers")
    assert "cannot be read" not in printed and status == 0, printed


def test_inputs_are_the_same_for_the_same_seed():
    import random

    seeds = {"a.json": b'{"a": [1, 2, {"b": "c"}]}', "b.tar": bytes(1024), "c.csv": b"a,b\n1,2\n", "d": bytes(99)}
    for name, data in seeds.items():
        made = [[mutations.mutate(random.Random(i), name, data, [data]) for i in range(50)] for _ in range(2)]
        assert made[0] == made[1]
        assert sum(changed != data for changed, _ in made[0]) > 40  # a swap of equals changes nothing


def test_flips_are_told_apart():
    status, printed = tool("flip", "--flips", 40, "--workers", 1, "--targets", "sealed", "unsealed", "checked")
    assert status == 1
    told = {name.partition(":")[0]: numbers[1:] for name, numbers in rows(printed).items()}
    refused, harmless, verified, silent, broken = told["sealed"]
    assert refused + harmless == 40 and min(refused, harmless) > 0 and silent == broken == verified == 0
    assert "remark" in printed  # says where the harmless ones are
    assert told["unsealed"] == [0, 0, 0, 40, 0] and "SILENT unsealed: bit" in printed
    refused, harmless, verified, silent, broken = told["checked"]
    assert verified > 0 and verified + silent == 40  # a flip in the remark passes here: other bytes were read


def test_kills_find_what_is_lost_left_over_or_stuck():
    faults = {
        "careless": "left over",
        "losing": "at once thing is neither",
        "giving_up": "there is something already",
        "wandering": "other: out",
    }
    status, printed = tool("kill", "--kills", 7)
    assert status == 1
    told = rows(printed)
    assert told["careful"][:1] == [1] and told["careful"][4] == 0
    for command, says in faults.items():
        assert told[command][0] == 1 and told[command][4] >= 1
        assert re.search(rf"^{command}, killed before rename 1: .*{says}", printed, re.M)
