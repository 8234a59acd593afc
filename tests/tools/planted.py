"""Readers and commands with planted faults, which tools/fuzz.py, flip.py and kill.py have to find; and sound ones."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from kill import Scenario
from workers import CHANGED, Target

from reimagen_jax.errors import UserError

FILE = Path("thing") / "file.json"


def write_specimens(folder):
    (folder / "thing").mkdir()
    content = {"number": 1, "text": "a text of some length"}
    seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    (folder / FILE).write_text(json.dumps({"content": content, "seal": seal, "remark": "of no importance" * 9}))


def sound(folder):
    try:
        return str(json.loads((folder / FILE).read_text())["content"]["number"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError("refused") from error


def sealed(folder):
    """Refuses another content."""
    try:
        found = json.loads((folder / FILE).read_bytes())
        content = json.dumps(found["content"])
        whole = hashlib.sha256(content.encode()).hexdigest() == found["seal"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError("damaged") from error
    if not whole:
        raise UserError("other content")
    return content


def unsealed(folder):
    """Takes whatever it reads."""
    return repr((folder / FILE).read_bytes())


def when_changed(fault):
    """A reader that is sound until something is changed."""
    return lambda folder: fault() if (folder / CHANGED).is_file() else "as it was"


def raises():
    return {}["planted"]


def eats():
    kept = bytearray(2**29)
    kept[:: 2**12] = b"\1" * (len(kept) // 2**12)
    time.sleep(0.3)
    return "too much"


def stumbles(folder):
    """Ends every other time as an interpreter may whose threads parse at once; reads what is given all the same."""
    stumbles.times += 1
    if stumbles.times % 2:
        raise SystemError("AST constructor recursion depth mismatch (before=90, after=59)")
    return unsealed(folder)


stumbles.times = 0

TARGETS = {
    name: Target(read, ("thing",), ("thing/*",))
    for name, read in {
        "sound": sound,
        "sealed": sealed,
        "unsealed": unsealed,
        "checked": unsealed,
        "raises": when_changed(raises),
        "stumbles": stumbles,
        "hangs": when_changed(lambda: time.sleep(60)),
        "eats": when_changed(eats),
        "aborts": when_changed(os.abort),
        "verifies": sealed,
    }.items()
}
VERIFIED = {"checked": "verifies"}


def run(words):
    return COMMANDS[words[0]]()


def restored(workdir):
    return {}


def careful():
    """Writes beside, then renames; a second time it finds nothing to do."""
    Path(".partial").write_text("whole")
    os.replace(".partial", "out")
    return 0


def careless():
    """Leaves what it had written beside when it is killed."""
    Path(tempfile.mkstemp(dir=".")[1]).rename("out")
    return 0


def losing():
    """For a moment there is neither the old one nor the new one."""
    Path("new").mkdir(exist_ok=True)
    Path("new/file").write_text("new")
    shutil.rmtree("thing", ignore_errors=True)
    Path("new").rename("thing")
    return 0


def giving_up():
    """Cannot go on where it was killed."""
    if Path("begun").exists():
        print("there is something already")
        return 2
    Path("begun").write_text("")
    Path("begun").rename("out")
    Path("done").write_text("")
    return 0


def wandering():
    """What it ends in depends on whether it was killed."""
    before = Path("trace").exists()
    Path("trace").write_text("a trace")
    Path("half").write_text("begun again" if before else "at once")
    Path("half").rename("out")
    return 0


COMMANDS = {command.__name__: command for command in (careful, careless, losing, giving_up, wandering)}
SCENARIOS = {name: Scenario(name, ("thing",), ("thing",)) for name in COMMANDS}
if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
