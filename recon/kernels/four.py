"""Four floats at a time, whatever the width of vectors: numbers that lie together at places far apart.

That is what a corner of a hash grid has, and every processor that runs the kernels has registers of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from recon.kernels.simd import FLAGS, element_pointer

FOUR = 4

_F32, _I32 = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_F32, FOUR)


def _in_all(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, number, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, FOUR), [0] * FOUR))


def _product(builder: ir.IRBuilder, pointer: ir.Value, weight: ir.Value) -> ir.Value:
    numbers = builder.load(pointer, typ=_VECTOR, align=4)
    return builder.fmul(numbers, _in_all(builder, weight), flags=FLAGS)


@intrinsic
def put_mixed(typing_context: Any, out: Any, to: Any, source: Any, places: Any, weights: Any) -> Any:
    """out[to : to + 4] = the sum over i of weights[i] * source[places[i] : places[i] + 4]; both are tuples"""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        total = ir.Constant(_VECTOR, [0.0] * FOUR)
        for i in range(len(places)):
            place, weight = (builder.extract_value(args[of], i) for of in (3, 4))
            pointer = element_pointer(context, builder, sig.args[2], args[2], place, _VECTOR)
            total = builder.fadd(total, _product(builder, pointer, weight), flags=FLAGS)
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _VECTOR)
        builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return types.void(out, to, source, places, weights), generate


@intrinsic
def add_weighted(typing_context: Any, out: Any, to: Any, weight: Any, source: Any, at: Any) -> Any:
    """out[to : to + 4] += weight * source[at : at + 4], the weight a float32"""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        added = _product(builder, element_pointer(context, builder, sig.args[3], args[3], args[4], _VECTOR), args[2])
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _VECTOR)
        builder.store(builder.fadd(builder.load(pointer, typ=_VECTOR, align=4), added, flags=FLAGS), pointer, align=4)
        return context.get_dummy_value()

    return types.void(out, to, weight, source, at), generate
