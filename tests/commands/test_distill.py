"""`reimagen distill`: a model and triples in, a model out that is told eta; it opens and tells its teacher."""

import json

import jax
import numpy as np
import pytest

from reimagen_jax.cli import main
from reimagen_jax.commands.distill import FEW, Distill
from reimagen_jax.config import differences, without_local
from reimagen_jax.data.records import Records
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.retrieval.neighbours import build_triples
from reimagen_jax.systems.reimagen.settings import Distilled, ReImagenConfig
from reimagen_jax.training.checkpoint import load_ema
from tests.tiny import TINY

pytestmark = pytest.mark.usefixtures("few_devices")
OPTIONS = ["--num-steps", "2", "--batch-size", "8", "--learning-rate", "1e-3"]


@pytest.fixture(scope="module")
def triples(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triples") / "triples"
    build_triples(Records.open(world / "records"), KnowledgeBase.open(world / "index"), 2, folder)
    return folder


@pytest.fixture(scope="module")
def distilled(model, triples, tmp_path_factory):
    """A folder of weights, which have begun to learn what those of `model` do."""
    out = tmp_path_factory.mktemp("distilled") / "few"
    words = ["distill", "--model", str(model), "--triples", str(triples), "--out", str(out)]
    assert main([*words, *OPTIONS]) == 0
    return out


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_the_result_is_a_re_imagen_that_tells_its_teacher(distilled, model):
    teacher, student, run = Model.open(model), Model.open(distilled), Model.open(f"{distilled}.run")
    assert type(student.config.system) is ReImagenConfig and student.config.name == "tiny-distilled"
    assert student.config.system.distilled == Distilled("tiny", teacher.digest, (1.0, 3.0), (1.0, 3.0))
    assert (student.config.system.sampler.guidance, student.config.system.sampler.num_steps) == ("mean", FEW)
    card = (distilled / "README.md").read_text()
    assert f"| Distilled from | tiny (SHA-256 `{teacher.digest}`)" in card
    assert same(student.params, run.params) and differences(student.config, without_local(run.config)) == {}


def test_the_teacher_lies_unchanged_in_the_run_whose_student_has_moved(distilled, model):
    teacher = Model.open(model, on_host=True).params
    _, params = load_ema(f"{distilled}.run", on_host=True)
    assert same(params["teacher"], teacher)
    assert not np.array_equal(
        params["student"]["unet"]["dstack"]["stem"]["kernel"], teacher["unet"]["dstack"]["stem"]["kernel"]
    )


def test_the_same_command_goes_on(distilled, model, triples, capsys):
    words = ["distill", "--model", str(model), "--triples", str(triples), "--out", str(distilled.with_name("longer"))]
    assert main([*words, "--workdir", f"{distilled}.run", *OPTIONS, "--num-steps", "3"]) == 0
    said = capsys.readouterr().out
    assert "going on from the checkpoint of step 2 of 3" in said and "step 3/3" in said
    assert Model.open(f"{distilled}.run").step == 3 and distilled.with_name("longer").is_dir()


def test_images_tell_whose_student_drew_them_and_a_sweep_over_eta_is_one_evaluation_a_step(distilled, model, tmp_path):
    drawn = ["--model", str(distilled), "--prompt", "a cat", "--steps", "2", "--num-images", "1"]
    assert main(["sample", *drawn, "--out", str(tmp_path / "drawn")]) == 0
    (told,) = (tmp_path / "drawn").glob("000-*.json")
    stage = json.loads(told.read_text())["stages"][0]
    assert stage["model"]["teacher"] == f"tiny {Model.open(model).digest}" and stage["text_steps"] is None
    assert main(["reproduce", str(tmp_path / "drawn"), "--model", str(distilled)]) == 0
    grid = ["--over", "eta=0,0.5,1", "--over", "text-weight=1,3", "--out", str(tmp_path / "grid")]
    assert main(["sweep", *drawn, *grid]) == 0
    rows = json.loads((tmp_path / "grid" / "sweep.json").read_text())["points"]
    assert {row["evaluations"] for row in rows} == {2}


def test_fewer_steps_are_learned_from_a_distilled_teacher(distilled, triples, tmp_path, capsys):
    words = ["distill", "--model", str(distilled), "--triples", str(triples), "--out", str(tmp_path / "one"), *OPTIONS]
    assert main(words) == 2
    assert "is distilled already: give --steps" in capsys.readouterr().err
    assert main([*words, "--steps", "1", "--teacher-steps", "2"]) == 0
    system = Model.open(tmp_path / "one").config.system
    assert (system.distilled.teacher, system.distilled.steps) == ("tiny-distilled", 1)
    assert (system.sampler.solver, system.sampler.num_steps) == ("ddim", 1)
    assert system.distilled.text_weights == Model.open(distilled).config.system.distilled.text_weights


def test_what_does_not_fit_is_refused_before_anything_is_trained(model, triples, tmp_path):
    def refused(match, **options):
        with pytest.raises(UserError, match=match):
            Distill(model=model, triples=triples, out=tmp_path / "out", **options).experiment()

    refused("--teacher-steps 2: of how many steps of the student's, --steps has to say", teacher_steps=2)
    refused("text_weight is 2: this model was distilled for 3 to 4", text_weights=(3.0, 4.0))
    refused(r"--neighbour-weights 3 \.\. 1 is not a range", neighbour_weights=(3.0, 1.0))
    assert TINY.system.sampler.text_weight == 2.0 and not list(tmp_path.iterdir())
