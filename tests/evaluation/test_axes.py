"""The axes of a sweep: read as they are typed, printed as they are read, refused in the words of axis and value."""

import pytest

from reimagen_jax.errors import UserError
from reimagen_jax.evaluation.axes import NAMES, Axis, axes_of, points_of, replaced


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("eta=0,0.25,1", (0.0, 0.25, 1.0)),
        ("eta=0:1:0.1", tuple(i / 10 for i in range(11))),
        ("eta=0:0.5:0.2,0.5,0.2", (0.0, 0.2, 0.4, 0.5)),
        ("steps=10,25", (10, 25)),
        ("--steps=10:30:10", (10, 20, 30)),
        ("neighbour_weight=1,2", (1.0, 2.0)),
        ("solver=ddim, unipc", ("ddim", "unipc")),
        ("guidance-interval=none,0.2:0.8", (None, (0.2, 0.8))),
        ("guidance-rescale=0,none", (0.0, None)),
        ("k=0,2", (0, 2)),
        ("seed=0:2:1", (0, 1, 2)),
        ("words=cat,dog", ("cat", "dog")),
        ('words="a cat, asleep","a ""dog"""', ("a cat, asleep", 'a "dog"')),
        ("negative=,blurry", ("", "blurry")),
        ('negative=""', ("",)),
        ("thresholding=none,static", ("none", "static")),
        ("checkpoint=2000,runs/other", ("2000", "runs/other")),
        ("method=lexical,hybrid", ("lexical", "hybrid")),
        ("neighbour-weight=1e-3,0.1234567890123", (1e-3, 0.1234567890123)),
    ],
)
def test_an_axis_is_read_and_printed_as_it_was(text, values):
    axis = Axis.parse(text)
    assert axis.values == values and all(map(axis.say, values))
    assert Axis.parse(str(axis)) == axis == Axis.of(axis.name, values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eta", "--over 'eta' is no axis, such as eta=0,0.5,1"),
        ("etta=1", "--over 'etta' is no axis: there are "),
        ("section=1", "--over 'section' is no axis: there are "),
        ("eta=", "--over eta has 0 values"),
        ("eta=0.5,2", "--over eta 2.0: at most 1"),
        ("eta=half", "--over eta 'half' is not a number"),
        ("eta=nan", "--over eta nan: a finite number"),
        ("eta=1:0:0.1", "--over eta '1:0:0.1' is no range"),
        ("eta=0:1:0", "--over eta '0:1:0' is no range"),
        ("eta=0:1:1e-5", "--over eta '0:1:1e-5' has 100,001 values: at most 10,000"),
        ("steps=2.5", "--over steps '2.5' is not a whole number"),
        ("steps=0", "--over steps 0: at least 1"),
        ("k=none", "--over k 'none' is not a whole number"),
        ("seed=-1", "--over seed -1: at least 0"),
        ("text-weight=-1", "--over text-weight -1.0: at least 0"),
        ("solver=euler", "--over solver is one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, heun, not 'euler'"),
        ("guidance-interval=0.2", "--over guidance-interval '0.2' is no interval"),
        ("guidance-interval=0.8:0.2", "--over guidance-interval 0.8:0.2 is not a range"),
        ("guidance-interval=0:2", "--over guidance-interval 2.0: at most 1"),
        ("words=,cat", "--over words has an empty value"),
        ("method=guess", "--over method is one of lexical, dense, hybrid, not 'guess'"),
    ],
)
def test_what_is_no_axis_is_refused_by_axis_and_value(text, said):
    with pytest.raises(UserError) as error:
        Axis.parse(text)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["eta=0", "eta=1"], "--over eta is given twice"),
        (["steps=1:200:1", "eta=0:1:0.01"], "asks for 200 of steps x 101 of eta, 20,200 points"),
        ([], "over at least one axis"),
        ({"eta": "0,1"}, "over: eta is '0,1': give its values as a list"),
        ({"num_steps": (2.5,)}, "over: steps is 2.5: a whole number"),
        ({"eta": (True,)}, "over: eta is True: a number is needed"),
        ({"times": (0.5,)}, "over 'times' is no axis"),
    ],
)
def test_what_is_no_grid_is_refused(over, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        axes_of(over)


def test_every_option_of_the_sampler_is_an_axis():
    assert {"eta", "steps", "solver", "guidance", "guidance-interval", "guidance-rescale", "spacing"} <= set(NAMES)
    assert [axis.name for axis in axes_of({"num_steps": (1,), "text_weight": (1, 2)})] == ["steps", "text-weight"]


def test_points_are_all_combinations_each_once():
    axes = axes_of(["eta=0,1,0", "steps=1,2", "seed=3"])
    assert points_of(axes) == [{"eta": e, "steps": s, "seed": 3} for e in (0.0, 1.0) for s in (1, 2)]


def test_words_are_replaced_whole():
    assert replaced("a cat, a category, a Cat", "cat", r"\1 dog") == r"a \1 dog, a category, a Cat"
    assert replaced("in deep snow at dusk", "deep snow", "rain") == "in rain at dusk"
