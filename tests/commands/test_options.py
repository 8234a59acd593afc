"""Options that commands share: a stage in one word, the settings of all stages; nothing is lost in printing."""

import dataclasses
import shlex
from pathlib import Path

import pytest
import tyro

from reimagen_jax.commands.embed import EmbedOptions
from reimagen_jax.commands.options import as_typed, command_line
from reimagen_jax.commands.prompt_options import AskingOptions, PromptOptions
from reimagen_jax.commands.sampling_options import STAGE_SETTINGS, CascadeOptions, SamplingOptions, StageOption
from reimagen_jax.config import InitConfig
from reimagen_jax.diffusion.settings import DiffusionConfig
from reimagen_jax.errors import UserError
from reimagen_jax.inference.model import Model, experiment_of, settled
from reimagen_jax.inference.provenance import sampler_facts
from reimagen_jax.retrieval.asking import Asking
from reimagen_jax.systems.mage.settings import MageSamplerConfig
from reimagen_jax.systems.reimagen.settings import GuidedSamplerConfig
from reimagen_jax.systems.reimagen.system import ReImagen
from reimagen_jax.systems.unclip.settings import ARPriorSamplerConfig, DecoderSamplerConfig
from tests.tiny import TINY, TINY_CROPS, TINY_SR, changed

EVERY = (
    "runs/sr,steps=3,solver=ddpm,spacing=even,times=0.9:0.5:0.2,ddim-noise=0.3,ddpm-gamma=0.4,eta=0.25,text-weight=3.5,neighbour-weight=1.5,guidance=joint,"
    "guidance-schedule=cosine,guidance-interval=0.2:0.8,guidance-rescale=0.7,thresholding=none,aug-level=0.2,k=1,aug-noise=every_call,"
    "handed-on=floats"
)
OF_A_DECODER = "runs/decoder,embedding=text"
OF_A_PRIOR = "runs/prior,prior-top=0.25,sampling-temperature=0.8"
OF_MAGE = "runs/mage,sampling-temperature=4.5"
OWN = TINY.system.sampler


def typed(*words: str) -> CascadeOptions:
    """The options as the command line has them."""
    return tyro.cli(CascadeOptions, args=list(words))


def models(*configs):
    """Opened models but for their parameters, which nothing here needs."""
    return [Model(Path(config.name), config, None, None) for config in configs]


@pytest.mark.parametrize("word", ["runs/sr", "shipped", EVERY, "runs/sr,batch-size=3", "a b/c,k=0,steps=1"])
def test_a_word_is_read_and_printed_as_it_was(word):
    stage = StageOption.parse(word)
    assert str(stage) == word and StageOption.parse(str(stage)) == stage
    assert typed("--cascade", word, "other").cascade == (stage, StageOption(Path("other")))
    again = shlex.split(command_line("x", CascadeOptions((stage,))))[2:]
    assert typed(*again) == CascadeOptions((stage,))


def test_every_setting_of_a_stage_can_be_given_and_the_others_stay():
    given = {
        name for word in (EVERY, OF_A_DECODER, OF_A_PRIOR, OF_MAGE) for name, _ in StageOption.parse(word).settings
    }
    assert given == STAGE_SETTINGS.keys()
    assert StageOption.parse(OF_A_DECODER).applied(DecoderSamplerConfig()) == DecoderSamplerConfig(embedding="text")
    own = ARPriorSamplerConfig(top=0.25, temperature=0.8)
    assert StageOption.parse(OF_MAGE).applied(MageSamplerConfig()) == MageSamplerConfig(temperature=4.5)
    assert StageOption.parse(OF_A_PRIOR).applied(ARPriorSamplerConfig()) == own
    assert SamplingOptions(prior_top=0.25, sampling_temperature=0.8).settings(ARPriorSamplerConfig()) == own
    with pytest.raises(UserError, match=r"^--prior-top: this model's sampler has no such setting"):
        SamplingOptions(prior_top=0.25).settings(DecoderSamplerConfig())
    assert StageOption.parse(EVERY).applied(OWN) == GuidedSamplerConfig(
        "ddpm",
        3,
        "none",
        spacing="even",
        times=(0.9, 0.5, 0.2),
        ddim_noise=0.3,
        ddpm_gamma=0.4,
        eta=0.25,
        text_weight=3.5,
        neighbour_weight=1.5,
        guidance="joint",
        guidance_schedule="cosine",
        guidance_interval=(0.2, 0.8),
        guidance_rescale=0.7,
        aug_level=0.2,
        aug_noise="every_call",
        handed_on="floats",
        k=1,
    )
    assert StageOption.parse("runs/sr,steps=7").applied(OWN) == dataclasses.replace(OWN, num_steps=7)
    assert StageOption.parse("runs/sr").applied(OWN) == OWN
    with pytest.raises(UserError, match="embedding: this model's sampler has no such setting"):
        StageOption.parse(OF_A_DECODER).applied(OWN)
    assert StageOption.parse(EVERY).batch_size(16) == 16
    assert StageOption.parse(EVERY + ",batch-size=2").batch_size(16) == 2


def test_a_folder_may_have_commas_and_settings_in_its_name(tmp_path):
    folder = tmp_path / "a, b,steps=2,c"
    folder.mkdir()
    assert StageOption.parse(str(folder)) == StageOption(folder)
    for word in (f"{folder},steps=3", f"{folder},k=1,steps=3"):
        stage = StageOption.parse(word)
        assert stage.model == folder and ("steps", "3") in stage.settings and str(stage) == word


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "m,step=3",
            "--cascade m,step=3: 'step' is no setting of a stage, such as steps=30; there are steps, solver, eta",
        ),
        ("m,steps", "'steps' is no setting of a stage"),
        ("m,", "'' is no setting of a stage"),
        ("m,text_weight=2", "'text_weight' is no setting of a stage"),
        ("m,steps=3,steps=4", "--cascade m,steps=3,steps=4: steps is set twice"),
        ("m,steps=", "steps '' is not a number"),
        ("m,steps=2.5", "steps '2.5' is not a number"),
        ("m,text-weight=two", "--cascade m,text-weight=two: text-weight 'two' is not a number"),
        ("m,k=all", "k 'all' is not a number"),
        ("m,batch-size=many", "--cascade m,batch-size=many: batch-size 'many' is not a number"),
        (
            "m,solver=euler",
            "--cascade m,solver=euler: solver is one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, heun, not 'euler'",
        ),
        ("m,thresholding=hard", "thresholding is one of dynamic, static, none, not 'hard'"),
        ("m,guidance=both", "guidance is one of interleaved, stratified, joint, compositional, mean, not 'both'"),
        ("m,guidance-schedule=up", "m,guidance-schedule=up: guidance-schedule is one of constant, linear, cosine"),
        (
            "m,spacing=odd",
            "m,spacing=odd: spacing is one of even, trailing, linspace, leading, ldm, ddim, karras, logsnr, fast27",
        ),
        ("m,times=", "--cascade m,times=: times '' is not a number"),
        ("m,times=1:x", "--cascade m,times=1:x: times 'x' is not a number"),
        ("m,times=1:1.5", "--cascade m,times=1:1.5: times 1.5: at most 1.0 is needed"),
        ("m,times=0.5:0.9", "--cascade m,times=0.5:0.9: times has 0.9 after 0.5: times fall from noise"),
        ("m,times=1:0.5,steps=3", "times lists 2, but --cascade m,times=1:0.5,steps=3: steps 3: set it to 2"),
        ("m,times=1:0.5,spacing=karras", "times are listed: leave --cascade m,times=1:0.5,spacing=karras: spacing"),
        ("m,guidance-interval=0.2", "guidance-interval '0.2' is no interval, such as 0.2:0.8"),
        ("m,guidance-interval=0.2:b", "guidance-interval 'b' is not a number"),
        ("m,guidance-interval=0.8:0.2", "m,guidance-interval=0.8:0.2: guidance-interval 0.8 .. 0.2 is not a range"),
        ("m,guidance-interval=0:1.5", "--cascade m,guidance-interval=0:1.5: guidance-interval"),
        ("m,guidance-rescale=2", "guidance-rescale 2.0: at most 1.0 is needed"),
        ("m,steps=0", "--cascade m,steps=0: steps 0: at least 1 is needed"),
        ("m,k=-1", "--cascade m,k=-1: k -1: at least 0"),
        ("m,eta=1.5", "--cascade m,eta=1.5: eta 1.5: at most 1.0 is needed"),
        ("m,aug-level=-1", "--cascade m,aug-level=-1: aug-level -1.0: at least 0"),
        ("m,text-weight=nan", "--cascade m,text-weight=nan: text-weight nan: a finite number is needed"),
        ("m,batch-size=0", "--cascade m,batch-size=0: batch-size 0: at least 1 is needed"),
    ],
)
def test_what_a_stage_cannot_have_is_refused_in_the_words_that_were_typed(word, said):
    with pytest.raises(UserError) as error:
        stage = StageOption.parse(word)
        stage.applied(OWN)
        stage.batch_size(16)
    assert str(error.value).startswith(said) or said in str(error.value)


@pytest.mark.parametrize(
    ("word", "own_k", "found", "k"),
    [
        ("m", None, 2, 2),
        ("m", None, 5, 5),
        ("m,k=1", None, 2, 1),
        ("m,k=0", None, 2, 0),
        ("m,k=9", None, 2, 2),
        ("m", 1, 2, 1),
        ("m,k=2", 1, 2, 2),
        ("m", 9, 2, 2),
    ],
)
def test_how_many_of_the_neighbours_found_a_stage_sees(word, own_k, found, k):
    config = changed(TINY_SR, sampler=dataclasses.replace(OWN, k=own_k))
    first, second = CascadeOptions((StageOption.parse(word),)).settings([TINY, config], OWN, found)
    assert (first.k, second.k) == (found, k)
    assert (first, second) == tuple(dataclasses.replace(OWN, k=each) for each in (found, k))


def test_a_stage_that_was_trained_without_neighbours_sees_none():
    cascade = tuple(map(StageOption.parse, ("sr", "crops,eta=1")))
    settings = CascadeOptions(cascade).settings([TINY, TINY_SR, TINY_CROPS], OWN, 2)
    assert [each.k for each in settings] == [2, 2, 0]
    assert [each.eta for each in settings] == [0.5, 0.5, 1.0]


def test_the_noise_on_a_first_stages_input_is_refused_for_a_base_model():
    with pytest.raises(
        UserError, match=r"--aug-level 0\.3: --model is a base model; write it behind a model of --cascade"
    ):
        CascadeOptions(aug_level=0.3).settings([TINY], OWN, 0)
    with pytest.raises(UserError, match=r"--aug-level 0\.3: --model is a base model"):
        CascadeOptions((StageOption.parse("sr"),), aug_level=0.3).settings([TINY, TINY_SR], OWN, 0)
    (first,) = CascadeOptions(aug_level=0.3).settings([TINY_SR], OWN, 0)
    assert first == dataclasses.replace(OWN, aug_level=0.3, k=0)
    narrow = dataclasses.replace(TINY_SR.system.super_resolution, aug_levels=(0.0, 0.5))
    wild = CascadeOptions((StageOption.parse("sr,aug-level=0.9"),))
    with pytest.raises(UserError, match=r"aug-level 0\.9 is outside of what the stage is trained for"):
        wild.pipeline(models(TINY, changed(TINY_SR, super_resolution=narrow)), SamplingOptions(), OWN, 0)


def test_a_pipeline_is_as_asked_and_what_is_printed_of_it_makes_the_same():
    how = SamplingOptions(batch_size=5, seed=3)
    options = typed("--cascade", "sr,steps=4,k=1,text-weight=0.1", "crops,batch-size=2")
    opened = models(TINY, TINY_SR, TINY_CROPS)
    pipeline = options.pipeline(opened, how, dataclasses.replace(OWN, eta=0.3), 2)
    assert (pipeline.seed, [stage.batch_size for stage in pipeline.stages]) == (3, [5, 5, 2])
    assert [stage.config for stage in pipeline.stages] == [TINY, TINY_SR, TINY_CROPS]
    assert pipeline.stages[1].settings == dataclasses.replace(OWN, num_steps=4, text_weight=0.1, k=1)

    resolved = options.resolved(pipeline)
    assert resolved.aug_level is None and typed(*shlex.split(command_line("x", resolved))[2:]) == resolved
    # Whatever the experiments say by then.
    other = dataclasses.replace(OWN, num_steps=99, text_weight=9.0, eta=0.9, aug_level=0.9, solver="ddpm", k=0)
    later = [TINY, changed(TINY_SR, sampler=other), changed(TINY_CROPS, sampler=other)]
    again = resolved.pipeline(models(*later), how, pipeline.settings, 2)
    assert [stage.settings for stage in again.stages] == [stage.settings for stage in pipeline.stages]
    assert [stage.batch_size for stage in again.stages] == [5, 5, 2]
    assert resolved.resolved(again) == resolved

    alone = CascadeOptions(aug_level=0.25).pipeline(models(TINY_SR), how, OWN, 0)
    assert CascadeOptions().resolved(alone) == CascadeOptions(aug_level=0.25, aug_noise="once")


def test_floats_are_handed_on_by_all_stages_but_the_last_where_nothing_else_is_said():
    options = typed("--cascade", "sr", "crops,aug-noise=every_call", "--handed-on", "floats")
    opened, how = models(TINY, TINY_SR, TINY_CROPS), SamplingOptions()
    pipeline = options.pipeline(opened, how, OWN, 0)
    assert [stage.settings.handed_on for stage in pipeline.stages] == ["floats", "floats", "bytes"]
    assert [stage.settings.aug_noise for stage in pipeline.stages] == ["once", "once", "every_call"]
    again = typed(*shlex.split(command_line("x", options.resolved(pipeline)))[2:]).pipeline(opened, how, OWN, 0)
    assert [stage.settings for stage in again.stages] == [stage.settings for stage in pipeline.stages]
    own = typed("--cascade", "sr,handed-on=bytes", "crops", "--handed-on", "floats").settings(
        [TINY, TINY_SR, TINY_CROPS], OWN, 0
    )
    assert [each.handed_on for each in own] == ["floats", "bytes", "bytes"]
    with pytest.raises(UserError, match=r"^--handed-on floats is about the models of --cascade: none is given"):
        CascadeOptions(handed_on="floats").settings([TINY], OWN, 0)
    with pytest.raises(UserError, match=r"^--aug-noise every_call: --model is a base model"):
        CascadeOptions(aug_noise="every_call").settings([TINY], OWN, 0)


def test_options_of_sampling_are_set_and_resolved():
    how = SamplingOptions(steps=9, text_weight=1.25, thresholding="dynamic")
    settings = how.settings(OWN)
    assert settings == dataclasses.replace(OWN, num_steps=9, text_weight=1.25, thresholding="dynamic")
    assert how.resolved(settings).settings(dataclasses.replace(OWN, solver="ddpm", num_steps=1)) == settings


LISTED = dataclasses.replace(OWN, num_steps=2, times=(0.75, 0.25))


@pytest.mark.parametrize(
    ("words", "own", "expected"),
    [
        ("--times 1 0.5 0.25", OWN, {"num_steps": 3, "times": (1.0, 0.5, 0.25)}),
        ("--times 1 0.5 0.25", LISTED, {"num_steps": 3, "times": (1.0, 0.5, 0.25)}),
        ("--times 1", dataclasses.replace(OWN, spacing="karras"), {"num_steps": 1, "times": (1.0,), "spacing": "even"}),
        ("--spacing karras", LISTED, {"num_steps": 2, "times": (), "spacing": "karras"}),
        ("--spacing fast27", LISTED, {"num_steps": 27, "times": (), "spacing": "fast27"}),
        ("--spacing smart50 --steps 50", OWN, {"num_steps": 50, "spacing": "smart50"}),
        ("--steps 9", LISTED, {"num_steps": 9, "times": ()}),
        ("--solver ddim --ddim-noise 0.5", LISTED, {"solver": "ddim", "ddim_noise": 0.5}),
        ("--solver ddpm --ddpm-gamma 0.25", OWN, {"solver": "ddpm", "ddpm_gamma": 0.25}),
    ],
)
def test_what_is_said_of_the_times_decides_all_of_them(words, own, expected):
    how = tyro.cli(SamplingOptions, args=words.split())
    settings = how.settings(own)
    assert settings == dataclasses.replace(own, **expected)
    word = ",".join(
        ["m", *(word.replace(" ", "=", 1).replace(" ", ":") for word in words.removeprefix("--").split(" --"))]
    )
    assert StageOption.parse(word).applied(own) == settings
    for other in (OWN, LISTED):  # what is printed draws the same, whatever the experiments say by then
        again = shlex.split(command_line("x", how.resolved(settings)))[2:]
        assert tyro.cli(SamplingOptions, args=again).settings(other) == how.resolved(settings).settings(other)
        assert tyro.cli(SamplingOptions, args=again).settings(other).told() == settings.told()
        stage = StageOption.parse(str(StageOption(Path("m")).resolved(settings, 1)))
        assert stage.applied(other).told() == settings.told()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--times 1 0.5 --steps 3", "--times lists 2, but --steps 3: set it to 2"),
        ("--times 1 0.5 --spacing karras", "--times are listed: leave --spacing 'karras' out"),
        ("--times 0.5 0.5", "--times has 0.5 after 0.5: times fall from noise to the image"),
        ("--times 1 0", "--times ends at 0.0, where the image is: leave it out, the image follows by itself"),
        ("--spacing fast27", "--spacing 'fast27', but diffusion.schedule 'cosine' is no chain"),
    ],
)
def test_times_that_make_no_sense_are_refused_as_they_were_typed(words, said, tmp_path):
    how = tyro.cli(SamplingOptions, args=words.split())
    with pytest.raises(UserError) as error:
        how.pipeline(Model(tmp_path, TINY, None, None), [])
    assert str(error.value) == said


def test_a_respacing_of_another_number_of_steps_is_refused_as_it_was_typed(tmp_path):
    chain = changed(TINY, diffusion=DiffusionConfig(schedule="cosine_chain"))
    with pytest.raises(UserError, match=r"^--spacing 'fast27' has 27 steps, but --steps 9: set it to 27$"):
        SamplingOptions(spacing="fast27", steps=9).pipeline(Model(tmp_path, chain, None, None), [])


def test_what_is_unlike_the_plain_sampler_is_told_in_words():
    assert OWN.told() == {}
    settings = OWN.changed(times=(1.0, 0.5), solver="ddim", ddim_noise=0.5, guidance="joint", guidance_rescale=0.7)
    assert (
        sampler_facts(settings, 0, 1).items()
        >= settings.told().items()
        == {
            "times": "1, 0.5",
            "DDIM's noise": "0.5",
            "guidance": "joint",
            "guidance rescaled by": "0.7",
        }.items()
    )
    about = ReImagen(changed(TINY, sampler=settings)).about()["Sampler"]
    assert "times 1, 0.5" in about and "guidance joint" in about
    assert OWN.changed(spacing="karras", ddpm_gamma=0.5, solver="ddpm").told() == {
        "spacing": "karras",
        "DDPM's gamma": "0.5",
    }


def test_guidance_is_said_by_options():
    words = "--guidance stratified --guidance-schedule linear --guidance-interval 0.2 0.8 --guidance-rescale 0.7"
    how = tyro.cli(SamplingOptions, args=words.split())
    settings = how.settings(OWN)
    assert (settings.guidance, settings.guidance_schedule) == ("stratified", "linear")
    assert (settings.guidance_interval, settings.guidance_rescale) == ((0.2, 0.8), 0.7)
    again = shlex.split(command_line("x", how.resolved(settings)))[2:]
    assert tyro.cli(SamplingOptions, args=again).settings(GuidedSamplerConfig()) == settings
    with pytest.raises(UserError, match=r"^--guidance-interval 0\.8 \.\. 0\.2 is not a range"):
        SamplingOptions(guidance_interval=(0.8, 0.2)).settings(OWN)


def test_neighbours_are_as_many_as_asked_as_the_experiment_says_or_as_in_training():
    what, base = PromptOptions(prompt=(("a",),)), Path("index")
    own = changed(TINY, sampler=dataclasses.replace(OWN, k=1))
    asked = dataclasses.replace(what, knowledge_base=base)
    assert [each.resolved(TINY).k for each in (what, asked, dataclasses.replace(asked, k=7))] == [0, 2, 7]
    assert [each.resolved(own).k for each in (what, asked, dataclasses.replace(asked, k=7))] == [0, 1, 7]


def test_the_shipped_model_is_known_wherever_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="--text-model shipped has no frozen text encoder"):
        EmbedOptions(tmp_path, text_model=Path("shipped"))._settings()
    config = dataclasses.replace(TINY, init=InitConfig(weights="shipped", adopt=True))
    assert settled(config).system.unet.levels == experiment_of("shipped").system.unet.levels


def test_what_does_not_fit_is_said_of_the_options_as_they_were_typed(tmp_path):
    noise = changed(TINY, diffusion=DiffusionConfig(schedule="cosine_chain", prediction="eps"))
    model = Model(tmp_path, noise, None, None)
    refused = (
        (SamplingOptions(thresholding="none"), "--thresholding 'none', but the network predicts noise"),
        (SamplingOptions(steps=1001), "--steps 1001, but the model's chain has 1000 steps"),
    )
    for how, said in refused:
        with pytest.raises(UserError, match=f"^{said}"):
            how.pipeline(model, [])
        with pytest.raises(UserError, match=f"^{said}"):
            CascadeOptions().pipeline([model], how, how.settings(noise.system.sampler), 0)


@pytest.mark.parametrize("option", ["where", "where_not"])
def test_an_option_that_is_named_already_is_not_named_twice(option):
    with pytest.raises(UserError, match=rf"^--{option.replace('_', '-')} 'brand' is not FIELD=VALUE"):
        AskingOptions(**{option: ("brand",)}).settings(Asking())


def test_a_backslash_in_what_was_typed_stays():
    with (
        pytest.raises(UserError, match=r"^--cascade runs\\data: steps 7, no$"),
        as_typed({"a.b": r"--cascade runs\data: steps"}),
    ):
        raise UserError("a.b is 7, no")
