"""The reader of optimized HLO: on programs compiled here, and on lines as the TPU compiler writes them."""

# ruff: noqa: E501 (HLO has one instruction a line)

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from reimagen_jax.preflight import hlo

PROGRAM = """HloModule small, is_scheduled=true

%fused (p0: f32[64,8,128], p1: s32[]) -> f32[8,128] {
  %p0 = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %flat = f32[8,128]{1,0:T(8,128)} bitcast(%slice)
}

%body (state: (s32[], f32[64,8,128], f32[8,128])) -> (s32[], f32[64,8,128], f32[8,128]) {
  %state = (s32[]{:T(128)}, f32[64,8,128]{2,1,0:T(8,128)}, /*index=2*/f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %all = f32[64,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=1
  %one = f32[8,128]{1,0:T(8,128)} fusion(%all, %i), kind=kLoop, calls=%fused
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%one), channel_id=1, replica_groups=GROUPS, use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(step)/here"}
  ROOT %next = (s32[]{:T(128)}, f32[64,8,128]{2,1,0:T(8,128)}, /*index=2*/f32[8,128]{1,0:T(8,128)}) tuple(%i, %all, %sum)
}

%condition (state.1: (s32[], f32[64,8,128], f32[8,128])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[64,8,128]{2,1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %go = pred[]{:T(512)} constant(true)
}

ENTRY %main (a: f32[64,8,128], b: f32[8,128]) -> f32[8,128] {
  %a = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %near = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%b)
  %arrived = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%near)
  %tuple = (s32[]{:T(128)}, f32[64,8,128]{2,1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}) tuple(%start, %a, %arrived)
  %loop = (s32[]{:T(128)}, f32[64,8,128]{2,1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=2
}
"""
ROW = 4 * 8 * 128


def read(groups="{{0,1,2,3},{4,5,6,7}}", program=PROGRAM):
    return hlo.parse(program.replace("GROUPS", groups))


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3)),
        ("{}", tuple(range(8))),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['data'=2,'fsdp'=4] {'fsdp'}", (0, 1, 2, 3)),
        ("mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
        ("mesh['data'=2,'fsdp'=4] {'data','fsdp'}", tuple(range(8))),
        ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", (0, 4)),
    ],
)
def test_groups_in_every_form(written, group):
    (found,) = hlo.collectives(read(written), 8)
    assert found.group == group


def test_a_loop_counts_as_often_as_it_runs():
    module = read()
    assert module.runs["main"] == 1
    assert module.runs["body"] == module.runs["fused"] == 5
    assert module.unknown_loops == 0
    (found,) = hlo.collectives(module, 8)
    assert found.runs == 5
    assert found.sent == 5 * 2 * ROW * 3 / 4  # a reduce-scatter and an all-gather among four
    assert found.source == "jit(step)/here"


def test_a_loop_that_counts_to_a_constant_needs_no_note():
    # As TPUs' programs are written: the condition says it all.
    counts = """  %limit = s32[]{:T(128)} constant(6)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %go = pred[]{:T(512)} compare(%i.1, %limit), direction=LT"""
    program = PROGRAM.replace("  ROOT %go = pred[]{:T(512)} constant(true)", counts)
    module = read(program=program.replace("known_trip_count", "something"))
    assert module.runs["body"] == 6
    assert module.unknown_loops == 0


def test_a_loop_of_unknown_length_is_noticed():
    module = read(program=PROGRAM.replace("known_trip_count", "something"))
    assert module.unknown_loops == 1
    assert module.runs["body"] == 1


def test_traffic_is_what_passes_through_main_memory():
    # Before the loop: one row is copied to on-chip memory, of which the read counts. In it: of the 64 rows, the fusion
    # reads one, and writes one; the all-reduce reads and writes one.
    assert hlo.hbm_traffic(read()) == ROW + 5 * (2 * ROW + 2 * ROW)


def test_main_memory_holds_whole_tiles():
    (padded,) = hlo.parse_shapes("bf16[3,3,100,7]{2,3,1,0:T(8,128)(2,1)}")
    assert padded.bytes == 2 * 3 * 3 * 100 * 7
    assert padded.hbm_bytes == 2 * 3 * 3 * 128 * 8  # the first axis of the layout is padded to 128, the next to 8
    (near,) = hlo.parse_shapes("bf16[3,3,100,7]{2,3,1,0:T(8,128)(2,1)S(1)}")
    assert near.hbm_bytes == 0
    pair = hlo.parse_shapes("(f32[]{:T(128)}, /*index=1*/pred[5]{0})")
    assert [shape.dims for shape in pair] == [(), (5,)]


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing")


def test_a_compiled_program():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), (AxisType.Auto,) * 2)
    place = jax.lax.with_sharding_constraint

    def loss(w, x):
        def body(x, _):
            return jnp.tanh(x @ place(w, NamedSharding(mesh, P()))), None

        return (jax.lax.scan(body, x, None, length=7)[0] ** 2).mean()

    def shape(sides, spec):
        return jax.ShapeDtypeStruct(sides, jnp.float32, sharding=NamedSharding(mesh, spec))

    arguments = shape((64, 32), P("fsdp")), shape((24, 64), P(("data", "fsdp")))
    square = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=arguments[0].sharding)
    text = jax.jit(jax.grad(loss)).lower(square, arguments[1]).compile().as_text()
    module = hlo.parse(text)
    # Forward, and both gradients of every step, of which a device has 3 of the 24 rows.
    assert hlo.matrix_flops(module) == 7 * 3 * 2 * 3 * 64 * 64
    found = hlo.collectives(module, 8)
    (gather,) = (c for c in found if c.kind == "all-gather")
    assert (gather.whole, gather.group, gather.runs) == (((64, 64),), (0, 1), 1)
    assert gather.sent == 4 * 64 * 64 / 2
    reduced = [c for c in found if c.kind in ("all-reduce", "reduce-scatter")]
    assert reduced and all(sides == (64, 64) for c in reduced for sides in c.whole)
