"""Asking by the options of commands: as in training unless told otherwise, and said."""

import dataclasses
import json
import shlex
import subprocess
import sys

import jax
import pytest

import reimagen_jax as rj
from reimagen_jax.cli import main
from reimagen_jax.commands.options import command_line
from reimagen_jax.commands.prompt_options import AskingOptions, PromptOptions
from reimagen_jax.config import to_json
from reimagen_jax.data.records import write_records
from reimagen_jax.errors import UserError
from reimagen_jax.files import foreign, kind_of
from reimagen_jax.inference.export import save_weights
from reimagen_jax.inference.model import Model
from reimagen_jax.inference.prompts import Prompt
from reimagen_jax.retrieval.asking import BY_CAPTION, Asking
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import Rules, build_triples
from reimagen_jax.systems import kinds
from reimagen_jax.systems.reimagen.feed import ReImagenFeed
from reimagen_jax.systems.reimagen.system import ReImagen
from tests.samples import example
from tests.tiny import TINY

TRAINED = Asking(query_by=("entity", "entity", "caption"), exclude_same=("style",), floor=0.7, tie_seed=0)
THINGS, STYLES = ("bubble tea", "left speech bubble", "palm tree"), ("round", "flat", "old")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with records of things in styles, their base, and a model whose training asked by the things' names."""
    folder = tmp_path_factory.mktemp("drawn")
    examples = [
        example(10 * t + s, f"{thing}, in the {style} style", f"{thing}/{style}", entity=thing, style=style)
        for t, thing in enumerate(THINGS)
        for s, style in enumerate(STYLES)
    ]
    KnowledgeBase.build(write_records(examples, folder / "records", source="test"), folder / "index")
    params = jax.jit(ReImagen(TINY).init)(jax.random.key(0))
    save_weights(folder / "model", trained(TINY), jax.tree.map(lambda leaf: leaf + 0.05, params))
    return folder


def trained(config, asked=TRAINED):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, asked=asked))


def keys(what, config):
    what.check()
    return [[hit.key for hit in prompt.neighbours] for prompt in what.gather(config)]


def test_training_takes_over_how_its_triples_were_asked_for_and_hands_it_on(drawn, tmp_path):
    base = KnowledgeBase.open(drawn / "index")
    rules = Rules(query_by=("entity", "caption"), exclude_same=("style",), floor=0.6)
    triples = build_triples(base.records, base, 2, tmp_path / "t", rules)
    config = dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, triples=str(tmp_path / "t")))
    settled = ReImagenFeed(config).settled().config
    assert settled.data.asked == triples.asked == Asking(**rules.options())
    assert kinds.from_json(to_json(settled)) == settled
    old = json.loads(to_json(TINY))
    del old["data"]["asked"]
    assert kinds.from_json(json.dumps(old)) == TINY, "an experiment of an earlier version"


def test_a_model_asks_as_it_was_trained_unless_options_say_otherwise(drawn, capsys):
    what = PromptOptions(records=drawn / "records", limit=1, knowledge_base=drawn / "index", k=3)
    assert sorted(keys(what, trained(TINY))[0]) == ["bubble tea/flat", "bubble tea/old"]
    said = capsys.readouterr().err
    assert said.count("asked as in training") == 1 and TRAINED.told() in said
    more = dataclasses.replace(what, asking=AskingOptions(floor=0.0))
    assert keys(more, trained(TINY))[0][2] in ("left speech bubble/flat", "left speech bubble/old")
    plain = dataclasses.replace(what, as_trained="no")
    assert keys(plain, trained(TINY)) == keys(what, TINY) != keys(what, trained(TINY))
    assert plain.how_asked(trained(TINY)) == BY_CAPTION
    capsys.readouterr()
    keys(plain, trained(TINY))
    assert capsys.readouterr().err == ""


def test_reports_tell_how_it_was_asked(drawn):
    what = PromptOptions(records=drawn / "records", limit=3, knowledge_base=drawn / "index", k=3)
    told, plain = (what.sources(config) for config in (trained(TINY), TINY))
    assert told["asked for"] == "the prompts' entity entity caption"
    assert told["asked so"] == "--exclude-same style --floor 0.7 --tie-seed 0"
    assert plain["asked for"] == "the prompts" and "asked so" not in plain
    assert command_line("x", what.resolved(trained(TINY))) == command_line("x", what.resolved(TINY))


def test_a_query_apart_from_the_prompt_for_all_or_for_each(drawn):
    base = {"knowledge_base": drawn / "index", "k": 3}
    two = PromptOptions(prompt=(("in the rain", "at night"),), query=(("palm tree",),), **base)
    for hits in keys(two, trained(TINY)):
        assert sorted(hits) == ["palm tree/flat", "palm tree/old", "palm tree/round"]
    each = dataclasses.replace(two, query=(("palm tree", "bubble tea"),))
    assert [{key.split("/")[0] for key in hits} for hits in keys(each, trained(TINY))] == [
        {"palm tree"},
        {"bubble tea"},
    ]


def test_the_fields_of_a_prompt_file_ask_as_those_of_records(drawn, tmp_path):
    lines = [{"text": "one in snow", "entity": "bubble tea", "style": "old"}, {"text": "rain", "query": "palm tree"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    what = PromptOptions(prompts=tmp_path / "p.jsonl", knowledge_base=drawn / "index", k=4)
    by_fields, by_query = keys(what, trained(TINY))
    assert sorted(by_fields) == ["bubble tea/flat", "bubble tea/round"] and len(by_query) == 3
    exact = AskingOptions(match=("entity", "style"), where_not=("style=round",))
    assert keys(dataclasses.replace(what, asking=exact), TINY)[0] == ["bubble tea/old"]


def test_records_that_are_prompts_and_records_that_are_found_have_filters_of_their_own(drawn, capsys):
    what = PromptOptions(records=drawn / "records", limit=3, knowledge_base=drawn / "index", k=1)
    old = dataclasses.replace(what, records_where=("style=old", "style=flat", "entity=palm tree"))
    prompts = old.gather(TINY)
    assert [prompt.key for prompt in prompts] == ["palm tree/flat", "palm tree/old"]
    assert old.source(TINY).digest != what.source(TINY).digest, "a job does not go on with other records"
    assert "with style=old, style=flat, entity=palm tree" in old.sources(TINY)["prompts"]
    apart = dataclasses.replace(old, asking=AskingOptions(where=("style=round",)))
    assert keys(apart, TINY) == [["palm tree/round"]] * 2, "--where is about neighbours"
    others = dataclasses.replace(old, records_where=("entity=palm tree",), records_where_not=("style=round",))
    assert [prompt.key for prompt in others.gather(TINY)] == [prompt.key for prompt in prompts]
    assert "with entity=palm tree without style=round" in others.sources(TINY)["prompts"]
    alone = dataclasses.replace(what, records_where_not=("style=round",), limit=9)
    assert not any(prompt.key.endswith("/round") for prompt in alone.gather(TINY))
    assert len({each.source(TINY).digest for each in (old, others, alone, dataclasses.replace(what, limit=9))}) == 4
    each = dataclasses.replace(what, records_where=("style=round",), limit=2)
    assert [prompt.key for prompt in each.gather(TINY)] == ["bubble tea/round", "palm tree/round"], "spread over all"
    assert (
        main(["search", str(drawn / "index"), "--records", str(drawn / "records"), "--records-where", "style=old"]) == 0
    )
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")] == [
        f"{t}, in the old style" for t in THINGS
    ]
    not_old = ["--records-where-not", "style=flat", "--records-where-not", "style=round"]
    assert main(["search", str(drawn / "index"), "--records", str(drawn / "records"), *not_old]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": (("a",),), "records_where": ("style=old",)}, "--records-where chooses among --records: none are"),
        ({"records": "records", "records_where": ("style",)}, "--records-where 'style' is not FIELD=VALUE"),
        ({"prompt": (("a",),), "records_where_not": ("a=b",)}, "--records-where-not chooses among --records: none are"),
        ({"records": "records", "records_where_not": ("style",)}, "--records-where-not 'style' is not FIELD=VALUE"),
        (
            {"records": "records", "records_where_not": ("style=new",)},
            "--records-where-not style=new: in .*records, style is one of round, flat, old",
        ),
        (
            {"records": "records", "records_where": ("style=old",), "records_where_not": ("style=old",)},
            "--records-where-not leaves out all of the 3 records",
        ),
        (
            {"records": "records", "records_where": ("style=new",)},
            "--records-where style=new: in .*records, style is one of round, flat, old",
        ),
        (
            {"records": "records", "records_where": ("age=1",)},
            "--records-where age=.*has the field age, but entity, style",
        ),
        ({"prompt": (("a", "b", "c"),), "query": (("x", "y"),)}, "--query has 2 texts for 3 prompts"),
        ({"prompt": (("a",),), "query": ((" ",),)}, "--query is empty"),
        ({"records": "records", "query": (("x",),)}, "--query is for --prompt and --prompts"),
        ({"prompt": (("a",),), "asking": {"query_by": ("entity",)}}, "has no such text"),
        ({"prompt": (("a",),), "asking": {"exclude_same": ("style",)}}, "a --prompt has no fields"),
        (
            {"prompt": (("a",),), "query": (("x",),), "asking": {"query_by": ("caption",)}},
            "--query and --query-by are both given",
        ),
        ({"prompt": (("a",),), "knowledge_base": None, "asking": {"floor": 0.5}}, "--floor asks a --knowledge-base"),
        ({"records": "records", "asking": {"query_by": ("flavour",)}}, "--query-by flavour"),
        ({"records": "records", "asking": {"where_not": ("style=new",)}}, "--where-not style=new: no record has it"),
    ],
)
def test_what_cannot_be_asked_is_said_by_its_option(drawn, options, message):
    options = {"knowledge_base": drawn / "index", **options}
    options["asking"] = AskingOptions(**options.get("asking", {}))
    if "records" in options:
        options["records"] = drawn / "records"
    with pytest.raises(UserError, match=message):
        keys(PromptOptions(**options), TINY)


def test_sample_says_what_was_left_out_and_its_command_draws_the_same(drawn, tmp_path, capsys):
    args = ["--model", drawn / "model", "--records", drawn / "records", "--knowledge-base", drawn / "index"]
    args += ["--limit", 1, "--k", 3, "--num-images", 1, "--out", tmp_path / "a"]
    assert main(["sample", *map(str, args)]) == 0
    said = capsys.readouterr().err
    assert "1 too little alike (--floor 0 keeps what is too little alike)" in said
    noted = json.loads((tmp_path / "a/sample.json").read_text())
    assert len(noted["images"][0]["neighbours"]) == 2 and noted["data"]["asked so"]
    words = shlex.split(noted["command"])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "b")
    assert main(words) == 0
    again = json.loads((tmp_path / "b/sample.json").read_text())
    assert again["images"][0]["neighbours"] == noted["images"][0]["neighbours"]


def test_search_asks_as_drawing_does(drawn, capsys):
    index = str(drawn / "index")

    def searched(*args):
        assert main(["search", index, *map(str, args), "--json", "--sheet", "None"]) == 0
        return [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()]

    what = PromptOptions(records=drawn / "records", limit=2, knowledge_base=drawn / "index", k=6)
    found = searched("--records", drawn / "records", "--limit", 2, "--model", drawn / "model")
    assert found == [key for hits in keys(what, trained(TINY)) for key in hits]
    assert searched("bubble tea", "--match", "entity") == [f"bubble tea/{style}" for style in STYLES]
    assert searched("bubble tea", "--match", "entity", "--where-not", "style=flat") == [
        "bubble tea/round",
        "bubble tea/old",
    ]
    assert main(["search", index, "bubble tea", "--floor", "0.7", "--sheet", "None"]) == 0
    assert "left out: 3 too little alike" in capsys.readouterr().out
    assert main(["search", index, "bubble tea", "--query-by", "entity", "--sheet", "None"]) == 2
    assert "a text has no fields" in capsys.readouterr().err


def test_python_asks_the_same(drawn):
    base = KnowledgeBase.open(drawn / "index")
    fields = {"entity": "bubble tea", "style": "old"}
    prompts = [Prompt("tea in the rain", attributes=fields), Prompt("rain", query="palm tree")]
    like = [[hit.key for hit in prompt.neighbours] for prompt in rj.ask(base, prompts, k=4, like=TRAINED)]
    assert sorted(like[0]) == ["bubble tea/flat", "bubble tea/round"] and len(like[1]) == 3
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in TRAINED.options().items()}
    (said,) = rj.ask(base, prompts[:1], k=4, **told)
    assert [hit.key for hit in said.neighbours] == like[0]
    model = Model(drawn, trained(TINY), None, None)
    assert [[hit.key for hit in each.neighbours] for each in rj.ask(base, prompts, k=4, like=model)] == like
    (exact,) = rj.ask(base, ["tea"], queries=["bubble tea"], k=9, match=["entity"], where_not=["style=old"])
    assert [hit.key for hit in exact.neighbours] == ["bubble tea/round", "bubble tea/flat"]
    with pytest.raises(UserError, match="ask: there is no flour, but query_by, method"):
        rj.ask(base, ["tea"], flour=0.5)


def test_triples_print_a_table_and_draw_a_sheet(drawn, tmp_path, capsys):
    args = [drawn / "records", "--knowledge-base", drawn / "index", "--out", tmp_path / "t", "--candidates", 3]
    args += ["--query-by", "entity", "caption", "--exclude-same", "style"]
    assert main(["triples", *map(str, args)]) == 0
    said = capsys.readouterr().out
    assert "up to 3 candidates, of which training draws 2, in" in said and "too little alike" in said
    assert "9 of 9 records of the base serve as neighbours" in said
    assert "33.3% of the base,  33.3% of the neighbours: style old" in said
    assert (tmp_path / "t/triples.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "t/theirs").touch()
    assert foreign(tmp_path / "t") == ["theirs"] and kind_of(tmp_path / "t") == "triples"
    (tmp_path / "t/theirs").unlink()
    assert main(["triples", *map(str, args), "--overwrite", "--count-by", "flavour"]) == 2
    assert "--count-by flavour: no record" in capsys.readouterr().err
    args[args.index(3)] = 1
    assert main(["triples", *map(str, args), "--overwrite"]) == 2
    assert "--candidates 1: at least as many as neighbours, 2, are needed" in capsys.readouterr().err


def test_searching_by_words_imports_neither_jax_nor_compilers(drawn, tmp_path):
    code = f"""
import sys
from reimagen_jax import cli
status = cli.main(["search", {str(drawn / "index")!r}, "bubble tea", "--k", "2"])
sys.exit(status or bool({{"jax", "flax", "orbax", "clu", "matplotlib", "numba", "scipy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bubble tea") == 5
