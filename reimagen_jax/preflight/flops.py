"""Model FLOPs: the multiplications and additions of a function's matrix products and convolutions, from its jaxpr.

  dot          2 x elements of the result x elements summed over                                                  (1)
  convolution  as in hlo.py: only where the kernel meets the image, neither padding nor zeros of a dilation        (2)
  attention    2 products of (queries x keys x width) a head, where a fused kernel hides them                      (3)
  training     3 x forward: the gradients of both factors of a product cost as much as itself, each                (4)

Unlike what a compiled program executes, this knows nothing of rematerialisation, padding or the device: it is what
"MFU" (model FLOPs utilisation, PaLM, Chowdhery et al. 2022, appendix B) is about. Element-wise work is not counted.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax.extend import core

from reimagen_jax.preflight.hlo import meeting_pairs

TRAINING = 3
"""(4)"""


def count(function: Callable[..., Any], *args: Any) -> int:
    """FLOPs of `function(*args)`; the arguments may be shapes. Loops whose length is not static raise `ValueError`."""
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2 * prod(out) * prod(left[axis] for axis in summed)  # (1)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name.startswith("dot_product_attention_fwd"):
        query_BQHD, key_BMHD = (x.aval.shape for x in equation.invars[:2])
        return 4 * prod(query_BQHD) * key_BMHD[1]  # (3)
    if name == "scan":
        return params["length"] * _of_jaxpr(params["jaxpr"].jaxpr)
    inner = [_of_jaxpr(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "while" and any(inner):
        raise ValueError("a loop of unknown length has matrix products in it: their number is not known")
    return max(inner, default=0) if name == "cond" else sum(inner)


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
