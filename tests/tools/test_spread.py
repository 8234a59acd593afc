"""Records spread evenly over many: which, and what is refused."""

import pytest

from reimagen_jax.data.records import Records, write_records
from reimagen_jax.errors import UserError
from tests.samples import example
from tools.spread import Spread


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread") / "records"
    write_records([example(i, f"number {i}", category="ab"[i % 2]) for i in range(9)], folder, source="test")
    return folder


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (20, list(range(9)))])
def test_records_are_spread_over_all(records, tmp_path, count, expected):
    Spread(records, tmp_path / "out", count).run()
    kept, all_of_them = Records.open(tmp_path / "out"), Records.open(records)
    assert [each.key for each in kept.fetch(range(len(kept)))] == [each.key for each in all_of_them.fetch(expected)]


def test_an_attributes_values_are_prompts(records, tmp_path):
    Spread(records, tmp_path / "classes.txt", 3, "category").run()
    assert (tmp_path / "classes.txt").read_text() == "a\nb\na\n"
    with pytest.raises(UserError, match="has no attribute 'colour'"):
        Spread(records, tmp_path / "none.txt", 3, "colour").run()
    assert not (tmp_path / "none.txt").exists()


def test_what_is_there_is_replaced_where_that_is_asked_for_and_nowhere_else(records, tmp_path):
    for out, values in (("out", ""), ("classes.txt", "category")):
        Spread(records, tmp_path / out, 3, values).run()
        with pytest.raises(UserError, match=f"{out} already exists: pass --overwrite to replace it"):
            Spread(records, tmp_path / out, 4, values).run()
        Spread(records, tmp_path / out, 4, values, overwrite=True).run()
    assert len(Records.open(tmp_path / "out")) == 4
    assert (tmp_path / "classes.txt").read_text() == "a\na\na\na\n"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for values, said in (("", "was not written by this program"), ("category", "is a folder")):
        with pytest.raises(UserError, match=said):
            Spread(records, tmp_path / "mine", 4, values, overwrite=True).run()
