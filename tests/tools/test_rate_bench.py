"""tools/rate_bench.py: raters at once; what was answered is stored, and what is not is counted. No time is asserted."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import rate_bench
from rate_bench import RateBench


def test_every_verdict_of_raters_at_once_is_stored():
    all_said, lost = rate_bench.measure(RateBench(raters=3, rate=60, seconds=0.2, side=8, best_of=2))
    counts = [len(said.verdicts) for said in all_said]  # four planned each; rounding of the clock may let in a fifth
    assert set(counts) <= {4, 5} and lost == 0
    for said, count in zip(all_said, counts, strict=True):
        assert said.errors == [] and said.pictures >= 2 * count and len(said.waits) == count


def test_what_goes_wrong_is_told(capsys, monkeypatch):
    lost = [rate_bench.Said({0: (1, 1)}, [0.001], [5.0]), rate_bench.Said(errors=["RuntimeError('500')"])]
    monkeypatch.setattr(rate_bench, "prepare_environment", lambda: None)
    monkeypatch.setattr(rate_bench, "measure", lambda args: (lost, 1))
    assert rate_bench.main(RateBench()) == 1
    assert "errors: 1; answered and not stored: 1" in capsys.readouterr().out
    monkeypatch.setattr(rate_bench, "measure", lambda args: (lost[:1], 0))
    assert rate_bench.main(RateBench()) == 0
    assert rate_bench.main(RateBench(seconds=1e9)) == 2
