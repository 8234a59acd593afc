"""Programs for NVIDIA GPUs as their compiler writes them: calls of cuBLAS and cuDNN, attention, the roofline."""

# ruff: noqa: E501 (HLO has one instruction a line)

import dataclasses

import jax
import pytest

from reimagen_jax import sharding
from reimagen_jax.errors import UserError
from reimagen_jax.preflight import attentions, hlo, report
from reimagen_jax.preflight.gpus import CARDS, parse_hosts
from reimagen_jax.preflight.programs import Program
from tests.preflight.test_report import regression_program
from tests.tiny import TINY

CARD = parse_hosts("h100:8")


def program(*lines, parameters=()):
    """An entry computation of these lines, without what comes of it."""
    shapes = [f"  %{name} = {shape} parameter({i})" for i, (name, shape) in enumerate(parameters)]
    return hlo.parse("\n".join(["HloModule jit_step", "", "ENTRY %main () -> () {", *shapes, *lines, "}"]))


CONTRACTED = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}'
PRODUCT = '%product = (bf16[4,256,64]{2,1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={op_name="NAME"}, backend_config={"gemm_backend_config":{"beta":0,DIMS,"precision_config":{"operand_precision":["WANTED","WANTED"]}}}'


def product(kind="bf16", wanted="DEFAULT", name="jit(step)/jvp(UNet)/out/dot_general"):
    line = "  " + PRODUCT.replace("DIMS", CONTRACTED).replace("WANTED", wanted).replace("NAME", name)
    return program(line, parameters=[("a", f"{kind}[4,256,32]{{2,1,0}}"), ("b", f"{kind}[4,32,64]{{2,1,0}}")])


@pytest.mark.parametrize(
    ("kind", "wanted", "called"),
    [("bf16", "DEFAULT", "bf16"), ("f32", "DEFAULT", "f32"), ("f32", "HIGHEST", "f32 highest")],
)
def test_a_product_by_cublas_counts_as_one(kind, wanted, called):
    found = product(kind, wanted)
    assert hlo.flops_by_type(found) == {called: 2 * 4 * 256 * 64 * 32}
    assert hlo.matrix_flops(found) == 2 * 4 * 256 * 64 * 32


def test_precision_is_read_of_products_that_stay_in_the_program_too():
    line = "  ROOT %dot = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}"
    found = program(line, parameters=[("a", "f32[8,16]{1,0}"), ("b", "f32[16,4]{1,0}")])
    assert hlo.flops_by_type(found) == {"f32 highest": 2 * 8 * 4 * 16}


def test_a_librarys_scratchpad_is_no_traffic():
    assert hlo.hbm_traffic(product()) == 2 * 4 * (256 * 32 + 32 * 64 + 256 * 64)


IMAGE, KERNEL, OUT = "bf16[2,8,8,16]{3,2,1,0}", "bf16[32,3,3,16]{3,2,1,0}", "bf16[2,8,8,32]{3,2,1,0}"
CONVOLUTION = '  %conv = (RESULT, u8[0]{0}) custom-call(%a, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="TARGET", backend_config={}'


@pytest.mark.parametrize(
    ("target", "operands", "result"),
    [
        ("__cudnn$convBiasActivationForward", (IMAGE, KERNEL), OUT),
        ("__cudnn$convForward", (IMAGE, KERNEL), OUT),
        ("__cudnn$convBackwardInput", (OUT, KERNEL), IMAGE),
        ("__cudnn$convBackwardFilter", (IMAGE, OUT), KERNEL),
    ],
)
def test_a_convolution_costs_the_same_in_all_directions(target, operands, result):
    line = CONVOLUTION.replace("RESULT", result).replace("TARGET", target)
    found = program(line, parameters=zip("ab", operands, strict=True))
    pairs = (8 + 7 + 7) ** 2  # a row of the kernel meets all 8 elements, the two others 7
    assert hlo.flops_by_type(found) == {"bf16": 2 * 2 * 32 * 16 * pairs}
    assert attentions.library_calls(found) == {target: 1}


SCORES = '"fmha_scale": 0.125, "intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "2", "256", "320"], "layout": {}}'
QKV = [("q", "bf16[4,256,2,64]{3,2,1,0}"), ("k", "bf16[4,320,2,64]{3,2,1,0}")]
FORWARD = f'  %fwd = (bf16[4,2,256,64]{{3,1,2,0}}, f32[4,2,256]{{2,1,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", metadata={{op_name="jit(step)/transpose(jvp(UNet))/checkpoint/rematted_computation/UNet/dstack/level1_attention0/dot_product_attention_fwd"}}, backend_config={{"cudnn_fmha_backend_config": {{{SCORES}}}}}'
BACKWARD = f'  %bwd = (bf16[4,2,256,64]{{3,1,2,0}}, bf16[4,2,320,64]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={{op_name="jit(step)/transpose(jvp(UNet))/checkpoint/dstack/level1_attention0/dot_product_attention_bwd"}}, backend_config={{"cudnn_fmha_backend_config": {{{SCORES}}}}}'


def test_cudnns_attention_is_two_products_forward_and_five_backward():
    scores = 4 * 2 * 256 * 320
    assert hlo.flops_by_type(program(FORWARD, parameters=QKV)) == {"bf16": 2 * 2 * scores * 64}
    assert hlo.flops_by_type(program(BACKWARD, parameters=QKV)) == {"bf16": 5 * 2 * scores * 64}


def test_an_attention_that_became_cudnns_is_one_place_with_its_calls():
    (found,) = attentions.attentions(program(FORWARD, BACKWARD, parameters=QKV))
    assert (found.queries, found.keys, found.fused, found.score_bytes) == (256, 320, True, 0)
    assert found.calls == {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}
    assert found.places == ("UNet/dstack/level1_attention0",)


SOFTMAX = '  %exp = f32[4,256,333]{2,1,0} exponential(%s), metadata={op_name="jit(step)/jvp(UNet)/ustack/level1_attention0/vmap()/exp"}'
SILU = '  %silu = f32[4,8,8,16]{3,2,1,0} exponential(%x), metadata={op_name="jit(step)/jvp(UNet)/ustack/level1_attention0/jit(silu)/exp"}'


def fallen_back():
    """What XLA makes of an attention: products of cuBLAS, with a softmax between them; and one by cuDNN beside."""
    name = "jit(step)/jvp(UNet)/ustack/level1_attention0/vmap(BNTS,BSNH->BTNH)/dot_general"
    line = "  " + PRODUCT.replace("DIMS", CONTRACTED).replace("WANTED", "DEFAULT").replace("NAME", name)
    told = [("a", "bf16[4,256,32]{2,1,0}"), ("b", "bf16[4,32,64]{2,1,0}"), ("s", "f32[4,256,333]{2,1,0}")]
    return [line, SOFTMAX, SILU, FORWARD], [*told, ("x", "f32[4,8,8,16]{3,2,1,0}"), *QKV]


def test_an_attention_that_fell_back_is_told_with_the_scores_it_keeps():
    lines, parameters = fallen_back()
    slow, fused = attentions.attentions(program(*lines, parameters=parameters))
    assert (slow.queries, slow.keys, slow.fused) == (256, 333, False)
    assert slow.calls == {"__cublas$lt$matmul": 1} and slow.score_bytes == 4 * 4 * 256 * 333
    assert slow.places == ("UNet/ustack/level1_attention0",) and fused.fused


def test_products_and_softmaxes_elsewhere_are_no_attention():
    assert attentions.attentions(product()) == ()
    assert (
        attentions.attentions(program(SILU, SOFTMAX, parameters=[("s", "f32[4,256,333]{2,1,0}"), ("x", "f32[4]{0}")]))
        == ()
    )


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(4)


def test_a_report_is_of_gpus_where_it_is_for_gpus(mesh):
    found = report.examine(regression_program(mesh, gathered=True), TINY, parse_hosts("h100:2x4"), mesh)
    assert found.sound and found.memory.available == CARDS["h100"].hbm - CARDS["h100"].reserved
    text = report.table(found)
    assert "memory a GPU" in text and "no activation travels between GPUs" in text and "chip" not in text
    # Parameters are shared within a host, gradients summed over both, by network cards that are slower than NVLink.
    card = CARDS["h100"]
    speeds = {(row.purpose, row.way): row.sent / row.seconds for row in found.collectives}
    assert speeds["parameters", "by NVLink"] == pytest.approx(card.link_bandwidth)
    assert {way for _, way in speeds} == {"by NVLink", "between hosts"}
    assert all(speed < card.link_bandwidth for (_, way), speed in speeds.items() if way == "between hosts")
    assert "all-gather of parameters by NVLink" in text


def test_what_fell_back_is_said_in_the_report(mesh):
    lines, parameters = fallen_back()
    shapes = [f"  %{name} = {shape} parameter({i})" for i, (name, shape) in enumerate(parameters)]
    text = "\n".join(["HloModule jit_step", "ENTRY %main () -> () {", *shapes, *lines, "}"])
    told = report.read_program(text, Program("train", None, (), {}, (), 4, 1e9), CARD, mesh)
    assert "1 of 2 attentions are not cuDNN's but XLA's" in told["notes"][0] and "333 keys" in told["notes"][0]
    assert told["calls"] == {"__cublas$lt$matmul": 1, "__cudnn$fmhaSoftmax": 1}
    found = dataclasses.replace(a_report(mesh), **told)
    assert "XLA's: __cublas$lt$matmul x 1; scores of" in report.table(found)
    assert "cuDNN's: __cudnn$fmhaSoftmax x 1" in report.table(found)
    # All of it is bfloat16 but for nothing: compute is at its peak.
    assert told["roofline"].compute == pytest.approx(told["flops"] / CARD.chip.flops)


def a_report(mesh):
    return report.examine(regression_program(mesh, gathered=True), TINY, CARD, mesh)


def test_slower_types_take_their_own_time(mesh):
    of = Program("train", None, (), {}, (), 4, 1e9)
    text = "\n".join(["HloModule jit_step", "ENTRY %main () -> () {", *shown("f32", "DEFAULT"), "}"])
    precise = text.replace('"DEFAULT"', '"HIGHEST"')
    tf32, f32 = (report.read_program(one, of, CARD, mesh)["roofline"].compute for one in (text, precise))
    flops = 2 * 4 * 256 * 64 * 32
    assert tf32 == pytest.approx(flops / CARD.chip.tf32_flops) and f32 == pytest.approx(flops / CARD.chip.f32_flops)


def shown(kind, wanted):
    line = "  " + PRODUCT.replace("DIMS", CONTRACTED).replace("WANTED", wanted)
    return [f"  %a = {kind}[4,256,32]{{2,1,0}} parameter(0)", f"  %b = {kind}[4,32,64]{{2,1,0}} parameter(1)", line]


@pytest.mark.parametrize(("share", "told"), [(0.5, False), (0.8, True), (1.5, False)])
def test_a_program_that_needs_more_than_jax_takes_by_itself_is_told(mesh, share, told):
    small = regression_program(mesh, gathered=True)
    peak = report.examine(small, TINY, CARD, mesh).memory.peak
    card = dataclasses.replace(CARD.chip, hbm=int(peak / share))
    found = report.examine(small, TINY, dataclasses.replace(CARD, chip=card), mesh)
    assert any("XLA_PYTHON_CLIENT_MEM_FRACTION" in note for note in found.notes) is told
    assert found.memory.fits is (share < 0.95)


def test_what_cannot_be_traced_for_a_card_is_refused_in_one_line(mesh):
    class Refused:
        def lower(self, *_):
            raise NotImplementedError("Unsupported sequence length")

    program = dataclasses.replace(regression_program(mesh, gathered=True), jitted=Refused())
    with pytest.raises(UserError, match=r"cannot run on h100:8 as it is set: Unsupported sequence length"):
        report.examine(program, TINY, CARD, mesh)


def test_this_is_what_jax_is_asked_for():
    """The places of an attention are told by the names that JAX gives its products."""
    q, k = jax.ShapeDtypeStruct((2, 8, 1, 4), "float32"), jax.ShapeDtypeStruct((2, 6, 1, 4), "float32")
    text = (
        jax.jit(lambda q, k: jax.nn.dot_product_attention(q, k, k, implementation="xla"))
        .lower(q, k)
        .compile()
        .as_text()
    )
    assert any(product in text for product in attentions.PRODUCTS)
