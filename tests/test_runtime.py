"""What the process around a command is set to."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from reimagen_jax import runtime

SIDE = 64 * 2**20
TOUCHED = f"""
import resource, sys, threading

from reimagen_jax import runtime

def touch():
    for _ in range(2):
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(b"1") * {SIDE}
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)

faults, kept = [], eval(sys.argv[1])
thread = threading.Thread(target=touch)  # programs run on threads of JAX's
thread.start()
thread.join()
print(kept, *faults)
"""


def touched(call: str = "runtime.keep_memory()", **environment: str) -> tuple[bool, int, int]:
    """Whether memory is kept, and the pages that the system gives for a large block and for the same once more."""
    done = subprocess.run(
        [sys.executable, "-c", TOUCHED, call],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    kept, *faults = done.stdout.split()
    return kept == "True", *map(int, faults)


def test_a_block_of_memory_that_was_freed_is_taken_again():
    kept, first, again = touched()
    pages = SIDE // os.sysconf("SC_PAGE_SIZE")
    assert kept
    assert first > pages // 2
    assert again < pages // 100


@pytest.mark.parametrize(
    ("accelerators", "keep", "kept"),
    [((), True, True), ((), False, False), (("/dev/null",), True, False)],
    ids=["asked", "not asked", "beside an accelerator"],
)
def test_memory_is_kept_where_it_is_asked_for_and_what_programs_compute_on_lies_here(accelerators, keep, kept):
    *_, again = touched(f"setattr(runtime, 'ACCELERATORS', {accelerators}) or runtime.configure({keep})")
    assert (again < SIDE // os.sysconf("SC_PAGE_SIZE") // 100) == kept


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}],
    ids=["variable", "tunable"],
)
def test_how_the_user_has_set_the_allocator_stays(environment):
    kept, first, again = touched(**environment)
    assert not kept
    assert min(first, again) > SIDE // os.sysconf("SC_PAGE_SIZE") // 2


def test_the_commit_is_that_of_the_checkout_and_none_where_git_does_not_know_the_package(monkeypatch, tmp_path):
    found = runtime.commit.__wrapped__()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found)
    if shutil.which("git") is None:
        assert found is None
        return
    for command in ("init -q", "add other.py", "-c user.name=a -c user.email=b commit -qm first"):
        (tmp_path / "other.py").touch()
        subprocess.run(["git", "-C", tmp_path, *command.split()], check=True)
    (tmp_path / "runtime.py").touch()
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "runtime.py"))
    assert runtime.commit.__wrapped__() is None, "an environment within somebody's checkout"
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "other.py"))
    first = runtime.commit.__wrapped__()
    assert re.fullmatch("[0-9a-f]{40}", first)
    (tmp_path / "other.py").write_text("changed")
    assert runtime.commit.__wrapped__() == f"{first}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime.commit.__wrapped__() is None, "without git"
