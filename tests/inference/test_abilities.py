"""What systems say that they cannot be asked for, and that drawing refuses the same."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from reimagen_jax import systems
from reimagen_jax.errors import UserError
from reimagen_jax.inference.abilities import example, lacking
from reimagen_jax.systems import kinds
from reimagen_jax.systems.request import Edit
from tests import rcg
from tests.tiny import TINY, TINY_SR, changed
from tests.unclip import DECODER, PRIOR, UPSAMPLER

PLAIN = replace(TINY, data=replace(TINY.data, num_neighbours=0))
ENLARGER = changed(
    UPSAMPLER, resolution=32, super_resolution=replace(UPSAMPLER.system.super_resolution, low_resolution=16)
)
"""Of what `TINY` draws."""
GUIDED = {"eta", "neighbour_weight"}


def guided(guidance):
    return changed(TINY, sampler=replace(TINY.system.sampler, guidance=guidance))


@pytest.mark.parametrize(
    ("configs", "lacks"),
    [
        ([TINY], set()),
        ([TINY, TINY_SR], set()),
        ([TINY, replace(UPSAMPLER, system=replace(UPSAMPLER.system, resolution=32))], {"edit"}),
        ([PLAIN], {"neighbours", *GUIDED}),
        ([guided("joint")], GUIDED),
        ([guided("compositional")], {"eta"}),
        ([DECODER], {"alone", "edit", *GUIDED}),
        ([PRIOR, DECODER], {"neighbours", "edit", *GUIDED}),
        ([rcg.GENERATOR], {"prompt", "alone", "edit", "negative", *GUIDED}),
        ([rcg.RDM, rcg.GENERATOR], {"prompt", "neighbours", "edit", "negative", "text_weight", *GUIDED}),
        ([rcg.CLASS_RDM, rcg.GENERATOR], {"neighbours", "edit", "negative", *GUIDED}),
        ([rcg.OF_NOTHING], {"prompt", "neighbours", "edit", "negative", "text_weight", *GUIDED}),
    ],
    ids=lambda value: "+".join(config.name for config in value) if isinstance(value, list) else "",
)
def test_what_a_system_lacks_it_says(configs, lacks):
    found = lacking(configs, configs[0].system.sampler)
    assert set(found) == lacks
    assert all(found.values()), "each with a reason"
    assert not any("--" in why for why in found.values()), "a page has no options"


@pytest.mark.parametrize("config", [DECODER, PRIOR, rcg.GENERATOR, rcg.RDM], ids=lambda config: config.name)
def test_the_reason_is_what_drawing_says(config):
    settings, feed = config.system.sampler.with_room(1), kinds.feed_of(config)
    served = example(config, neighbours="alone" in lacking([config], settings))
    feed.check(served, settings)
    picture = example(config, neighbours=True).neighbours[0].image
    with pytest.raises(UserError) as refused:
        feed.check(replace(served, edit=Edit(picture)), settings)
    assert str(refused.value) == lacking([config], settings)["edit"]


def test_without_neighbours_a_decoder_draws_from_the_text():
    own = DECODER.system.sampler
    other = own.of_text_alone()
    assert (other.embedding, other.k) == ("text", 0) and own.embedding is None
    assert "alone" not in lacking([DECODER], other)
    assert TINY.system.sampler.of_text_alone() == TINY.system.sampler


def test_a_refusal_names_options_in_their_own_place():
    """Which a page leaves out, since it has controls instead (`errors.UserError`)."""
    messages = []
    for path in Path(systems.__file__).parent.rglob("feed.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("check"):
                calls = [each for each in ast.walk(function) if isinstance(each, ast.Call)]
                asked = [each for each in calls if ast.unparse(each.func) in ("require", "UserError")]
                messages += [ast.unparse(each.args[ast.unparse(each.func) == "require"]) for each in asked]
    assert len(messages) > 10
    assert [said for said in messages if re.search("--[a-z]", said)] == []
