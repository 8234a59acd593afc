"""Model FLOPs: the multiplications and additions of a function's matrix products and convolutions, from its jaxpr.

  dot          2 x elements of the result x elements summed over                                                  (1)
  convolution  as in hlo.py: only where the kernel meets the image, neither padding nor zeros of a dilation        (2)
  attention    2 products of (queries x keys x width) a head, where a fused kernel hides them                      (3)
  training     (1 + n) x forward: the gradient of each factor of a product costs as much as itself; n of its two
               factors, those that hang on a parameter that learns, have one                                       (4)

Unlike what a compiled program executes, this knows nothing of rematerialisation, padding or the device: it is what
"MFU" (model FLOPs utilisation, PaLM, Chowdhery et al. 2022, appendix B) is about. Element-wise work is not counted.
"""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import jax
from jax.extend import core

from reimagen_jax.preflight.hlo import meeting_pairs

TRAINING = 3
"""(4) where both factors of all products have a gradient, which is nearly so when every parameter learns."""


def count(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `function(*args)`; the arguments may be shapes. Loops whose length is not static raise `ValueError`."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _of_jaxpr(jaxpr, [False] * len(jaxpr.invars))[0]


def training(loss: Callable[..., Any], learned: Any, params: Any, *args: Any) -> int:
    """FLOPs of `loss(params, *args)` and of its gradient with respect to the parameters that `learned`, a tree of bool
    like theirs, names."""
    jaxpr = jax.make_jaxpr(loss)(params, *args).jaxpr
    varies = jax.tree.leaves(learned)
    return _of_jaxpr(jaxpr, [*varies, *[False] * (len(jaxpr.invars) - len(varies))])[0]


Counted = tuple[int, list[bool]]
"""FLOPs, and which results hang on a parameter that learns."""


def _of_jaxpr(jaxpr: core.Jaxpr, varies: Iterable[bool]) -> Counted:
    total, known = 0, dict(zip(jaxpr.invars, varies, strict=True))
    for equation in jaxpr.eqns:
        told = [not isinstance(x, core.Literal) and known.get(x, False) for x in equation.invars]
        cost, found = _of_equation(equation, told)
        total += cost
        known |= dict(zip(equation.outvars, found, strict=True))
    return total, [not isinstance(x, core.Literal) and known.get(x, False) for x in jaxpr.outvars]


def _of_equation(equation: core.JaxprEqn, varies: Sequence[bool]) -> Counted:
    name, params = equation.primitive.name, equation.params
    found = [any(varies) and name != "stop_gradient" and _differentiable(x) for x in equation.outvars]
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return (1 + sum(varies)) * 2 * prod(out) * prod(left[axis] for axis in summed), found  # (1), (4)
    if name == "conv_general_dilated":
        return (1 + sum(varies)) * _convolution(equation), found
    if name.startswith("dot_product_attention_fwd"):
        query_BQHD, key_BMHD = (x.aval.shape for x in equation.invars[:2])
        return (3 if any(varies) else 1) * 4 * prod(query_BQHD) * key_BMHD[1], found  # (3)
    if name == "scan":
        return _scan(equation, varies)
    # What enters a branch is what stands behind the number that chooses it; all others enter in order.
    entering = varies[1:] if name == "cond" else varies
    inner = [
        _of_jaxpr(jaxpr, entering if len(jaxpr.invars) == len(entering) else [any(varies)] * len(jaxpr.invars))
        for value in params.values()
        for jaxpr in _jaxprs(value)
    ]
    costs = [cost for cost, _ in inner]
    if name == "while" and any(costs):
        raise ValueError("a loop of unknown length has matrix products in it: their number is not known")
    if inner and all(len(leaving) == len(found) for _, leaving in inner):
        found = [any(some) for some in zip(*(leaving for _, leaving in inner), strict=True)]
    return max(costs, default=0) if name == "cond" else sum(costs), found


def _scan(equation: core.JaxprEqn, varies: Sequence[bool]) -> Counted:
    params = equation.params
    body = params["jaxpr"].jaxpr
    # Constants, what is handed on, slices; JAX 0.11 no longer says how many: slices have lost an axis.
    sliced, carried = (
        sum(len(x.aval.shape) == len(y.aval.shape) + axes for x, y in zip(outer, inner, strict=True))
        for outer, inner, axes in ((equation.invars, body.invars, 1), (equation.outvars, body.outvars, 0))
    )
    consts = len(body.invars) - sliced - carried
    varies = list(varies)
    while True:  # what is handed on may come to hang on more than in the first round
        cost, found = _of_jaxpr(body, varies)
        after = [a or b for a, b in zip(varies[consts : consts + carried], found[:carried], strict=True)]
        if after == varies[consts : consts + carried]:
            return params["length"] * cost, found
        varies[consts : consts + carried] = after


def _differentiable(x: core.Var) -> bool:
    return jax.numpy.issubdtype(getattr(x.aval, "dtype", bool), jax.numpy.inexact)


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    return [jaxpr for item in value for jaxpr in _jaxprs(item)] if isinstance(value, tuple | list) else []


def _convolution(equation: core.JaxprEqn) -> int:
    params = equation.params
    left, right, out = (x.aval.shape for x in (*equation.invars, *equation.outvars))
    left_axes, right_axes, out_axes = params["dimension_numbers"]
    pairs = prod(
        meeting_pairs(left[l], out[o], right[r], stride, low, dilate, kernel_dilate)
        for l, r, o, stride, (low, _), dilate, kernel_dilate in zip(  # noqa: E741
            left_axes[2:],
            right_axes[2:],
            out_axes[2:],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    )
    batch, features, features_in = out[out_axes[0]], out[out_axes[1]], right[right_axes[1]]
    return 2 * batch * features * features_in * pairs // params["batch_group_count"]  # (2)
