"""Moving floats between the lanes of vectors, and scalar instructions that Numba has no name for.

Rows of an ordinary array become vectors that hold one column each (lane i belongs to row i), and back; so kernels work
on LANES rows at a time while the arrays keep their natural layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from recon.kernels.simd import LANES, element_pointer, get, inline, load, mask, put, stack, store, vector

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_LINE = 16  # floats in a cache line
_VECTOR, _HALF, _BYTES = (
    ir.VectorType(_F32, LANES),
    ir.VectorType(_F32, LANES // 2),
    ir.VectorType(ir.IntType(8), LANES),
)


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _pick(builder: ir.IRBuilder, sources: Sequence[ir.Value], wanted: Sequence[int]) -> ir.Value:
    """The vector whose lane i is element `wanted[i]` of all sources laid end to end."""
    own = [(w // LANES, w % LANES) for w in wanted]
    picked = _shuffle(builder, sources[0], sources[1], [LANES * min(s, 1) + e for s, e in own])
    for number in range(2, len(sources)):
        lanes = [LANES + e if s == number else lane for lane, (s, e) in enumerate(own)]
        picked = _shuffle(builder, picked, sources[number], lanes)
    return picked


def _transposed(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of LANES vectors: 4x4 blocks inside 128-bit parts first, which is cheap, then the parts."""
    parts = range(0, LANES, 4)
    blocks = []
    for r in range(0, LANES, 4):
        low = [LANES * side + p + lane for p in parts for lane in (0, 1) for side in (0, 1)]
        high = [LANES * side + p + lane for p in parts for lane in (2, 3) for side in (0, 1)]
        a, b = (_shuffle(builder, rows[r], rows[r + 1], lanes) for lanes in (low, high))
        c, d = (_shuffle(builder, rows[r + 2], rows[r + 3], lanes) for lanes in (low, high))
        first = [LANES * side + p + lane for p in parts for side in (0, 1) for lane in (0, 1)]
        second = [LANES * side + p + lane for p in parts for side in (0, 1) for lane in (2, 3)]
        blocks.append([_shuffle(builder, x, y, lanes) for x, y in ((a, c), (b, d)) for lanes in (first, second)])
    columns = [[blocks[part][column] for part in range(LANES // 4)] for column in range(4)]
    result: list[Any] = [None] * LANES
    for column, group in enumerate(columns):
        for part, transposed in enumerate(_transposed_parts(builder, group)):
            result[4 * part + column] = transposed
    return result


def _transposed_parts(builder: ir.IRBuilder, group: list[ir.Value]) -> list[ir.Value]:
    """Transpose a square matrix of 128-bit parts, one row per vector."""
    if len(group) == 1:
        return group
    even = [4 * p + lane for p in range(0, 2 * len(group), 2) for lane in range(4)]
    odd = [lane + 4 for lane in even]
    if len(group) == 2:
        return [_shuffle(builder, group[0], group[1], lanes) for lanes in (even, odd)]
    a, b = ([_shuffle(builder, x, y, lanes) for lanes in (even, odd)] for x, y in (group[:2], group[2:]))
    # a[0] holds parts (0, 2) of rows 0 and 1, a[1] parts (1, 3); likewise b for rows 2 and 3
    return [_shuffle(builder, a[k], b[k], lanes) for lanes in (even, odd) for k in (0, 1)]


@intrinsic
def load_columns(typing_context: Any, array: Any, index: Any, width: Any) -> Any:
    """The columns of LANES consecutive rows of `width` (a literal 2, 3 or 4) floats, the first at array[index]."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    count = width.literal_value

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        sources = []
        for part in range(count):
            start = builder.add(args[1], ir.Constant(args[1].type, part * LANES))
            pointer = element_pointer(context, builder, sig.args[0], args[0], start, _VECTOR)
            sources.append(builder.load(pointer, typ=_VECTOR, align=4))
        columns = [_pick(builder, sources, [row * count + c for row in range(LANES)]) for c in range(count)]
        return context.make_tuple(builder, sig.return_type, columns)

    return types.UniTuple(vector, count)(array, index, width), generate


@intrinsic
def store_columns(typing_context: Any, array: Any, index: Any, columns: Any) -> Any:
    """The inverse of `load_columns`: write LANES rows whose columns are the 2, 3 or 4 vectors of a tuple."""
    count = len(columns)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        sources = cgutils.unpack_tuple(builder, args[2])
        for part in range(count):
            flat = range(part * LANES, (part + 1) * LANES)
            row = _pick(builder, sources, [(i % count) * LANES + i // count for i in flat])
            start = builder.add(args[1], ir.Constant(args[1].type, part * LANES))
            pointer = element_pointer(context, builder, sig.args[0], args[0], start, _VECTOR)
            builder.store(row, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, columns), generate


@intrinsic
def copy_transposed(
    typing_context: Any, source: Any, index: Any, stride: Any, target: Any, start: Any, target_stride: Any
) -> Any:
    """target[start + j * target_stride + i] = source[index + i * stride + j] for all i, j < LANES."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        def pointers(array: int, first: int, stride: int) -> list[ir.Value]:
            found = []
            offset = args[first]
            for _ in range(LANES):
                found.append(element_pointer(context, builder, sig.args[array], args[array], offset, _VECTOR))
                offset = builder.add(offset, args[stride])
            return found

        rows = [builder.load(p, typ=_VECTOR, align=4) for p in pointers(0, 1, 2)]
        for column, pointer in zip(_transposed(builder, rows), pointers(3, 4, 5), strict=True):
            builder.store(column, pointer, align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), generate


def _summed(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """The vector whose lane i is the sum of the lanes of vectors[i]; lanes beyond the last hold anything."""
    distance = 1
    while distance < LANES:
        # Add neighbours at a distance, and pack two vectors into one: n vectors take about n steps in all.
        halves = [
            [
                side + block + offset + lane
                for block in range(0, LANES, 2 * distance)
                for side in (0, LANES)
                for lane in range(distance)
            ]
            for offset in (0, distance)
        ]
        packed = []
        for pair in range(0, len(vectors), 2):
            a, b = vectors[pair], vectors[min(pair + 1, len(vectors) - 1)]
            packed.append(builder.fadd(*(_shuffle(builder, a, b, lanes) for lanes in halves)))
        vectors, distance = packed, 2 * distance
    return vectors[0]


@intrinsic
def store_sums(typing_context: Any, array: Any, index: Any, vectors: Any) -> Any:
    """array[index + i] = the sum of the lanes of vectors[i], a tuple; whole vectors are written, the rest is junk."""
    count = len(vectors)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        values = cgutils.unpack_tuple(builder, args[2])
        for first in range(0, count, LANES):
            start = builder.add(args[1], ir.Constant(args[1].type, first))
            pointer = element_pointer(context, builder, sig.args[0], args[0], start, _VECTOR)
            builder.store(_summed(builder, values[first : first + LANES]), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, vectors), generate


@intrinsic
def load_halves(typing_context: Any, array: Any, lower: Any, upper: Any) -> Any:
    """Half a vector from array[lower] on, and above it half a vector from array[upper] on."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointers = [element_pointer(context, builder, sig.args[0], args[0], start, _HALF) for start in args[1:]]
        halves = [builder.load(pointer, typ=_HALF, align=4) for pointer in pointers]
        return _shuffle(builder, halves[0], halves[1], range(LANES))

    return vector(array, lower, upper), generate


@intrinsic
def store_halves(typing_context: Any, array: Any, lower: Any, upper: Any, value: Any) -> Any:
    """The inverse of `load_halves`."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        for start, lanes in ((args[1], range(LANES // 2)), (args[2], range(LANES // 2, LANES))):
            pointer = element_pointer(context, builder, sig.args[0], args[0], start, _HALF)
            builder.store(_shuffle(builder, args[3], args[3], lanes), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, lower, upper, value), generate


@intrinsic
def load_flags(typing_context: Any, array: Any, index: Any) -> Any:
    """Mask of the bytes array[index : index + LANES] that are not 0."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _BYTES)
        flags = builder.load(pointer, typ=_BYTES, align=1)
        return builder.icmp_unsigned("!=", flags, ir.Constant(_BYTES, [0] * LANES))

    return mask(array, index), generate


@intrinsic
def store_flags(typing_context: Any, array: Any, index: Any, lanes: Any) -> Any:
    """array[index : index + LANES] = 1 where the mask is set, 0 elsewhere; bytes."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _BYTES)
        builder.store(builder.zext(args[2], _BYTES), pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, index, mask), generate


@intrinsic
def has_bits(typing_context: Any, value: Any) -> Any:
    """Mask of the lanes of a vector that are not all zero bits: integers that are not 0, if they are in its place."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        whole = ir.VectorType(_I32, LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(args[0], whole), ir.Constant(whole, [0] * LANES))

    return mask(vector), generate


@intrinsic
def any_set(typing_context: Any, lanes: Any) -> Any:
    """Whether any lane of a mask is set."""
    return types.boolean(mask), lambda context, builder, sig, args: builder.icmp_unsigned(
        "!=", builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(LANES)(0)
    )


@intrinsic
def mask_bits(typing_context: Any, lanes: Any) -> Any:
    """A mask as an int64: bit i is lane i."""
    return types.int64(mask), lambda context, builder, sig, args: builder.zext(
        builder.bitcast(args[0], ir.IntType(LANES)), _I64
    )


@intrinsic
def lowest_bit(typing_context: Any, bits: Any) -> Any:
    """The number of the lowest bit set in a positive int64."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def extract(typing_context: Any, value: Any, lane: Any) -> Any:
    """One lane as a float32."""
    return types.float32(vector, lane), lambda context, builder, sig, args: builder.extract_element(args[0], args[1])


@intrinsic
def sum_lanes(typing_context: Any, value: Any) -> Any:
    """The sum of all lanes, always in the same order."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        value, width = args[0], LANES
        while width > 1:  # fold the upper half onto the lower one
            width //= 2
            lower, upper = (
                builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, width), list(lanes)))
                for lanes in (range(width), range(width, 2 * width))
            )
            value = builder.fadd(lower, upper)
        return builder.extract_element(value, _I32(0))

    return types.float32(vector), generate


@inline
def fetch_rows(array: Any, first: Any, width: Any) -> None:
    """`prefetch_early` of rows first ... first + LANES - 1 of `width` floats, which may be past the end."""
    for at in range(first * width, (first + LANES) * width, _LINE):
        prefetch_early(array, at)


@inline
def load_first(array: Any, index: Any, count: Any) -> Any:
    """array[index : index + count] in the first lanes and zeros in the others; all LANES if there are that many."""
    if count >= LANES:
        return load(array, index)
    buffer = stack(LANES)
    store(buffer, 0, 0.0)
    for lane in range(count):
        put(buffer, lane, get(array, index + lane))
    return load(buffer, 0)


@inline
def store_first(array: Any, index: Any, value: Any, count: Any) -> None:
    """array[index : index + count] = the first lanes of `value`; all of them if there are LANES or more."""
    if count >= LANES:
        store(array, index, value)
    else:
        for lane in range(count):
            put(array, index + lane, extract(value, lane))


# ------------------------------------------------------------------------------------------ scalars


@intrinsic
def scalar_max(typing_context: Any, x: Any, bound: Any) -> Any:
    """The larger of two float32 without a branch; a NaN in `x` stays."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.select(builder.fcmp_ordered(">", args[1], args[0]), args[1], args[0])

    return types.float32(types.float32, types.float32), generate


@intrinsic
def float_bits(typing_context: Any, x: Any) -> Any:
    """The bits of a float32 as int64; they order positive floats as their values do."""
    return types.int64(types.float32), lambda context, builder, sig, args: builder.zext(
        builder.bitcast(args[0], _I32), _I64
    )


@intrinsic
def pause(typing_context: Any) -> Any:
    """Let the core rest for some nanoseconds, while something is waited for."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        if str(builder.module.triple).startswith(("x86", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def atomic_get(typing_context: Any, array: Any, index: Any) -> Any:
    """An int64 that threads share; who sees what another wrote sees all that was written before it."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _I64)
        return builder.load_atomic(pointer, "acquire", 8, typ=_I64)

    return types.int64(array, types.int64), generate


@intrinsic
def atomic_add(typing_context: Any, array: Any, index: Any, amount: Any) -> Any:
    """Add to an int64 that threads share; gives the value before.

    A thread that sees the sum also sees all that was written before it was added to.
    """

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _I64)
        return builder.atomic_rmw("add", pointer, args[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), generate


def _prefetching(cache: int, doc: str) -> Callable[..., Any]:
    def typed(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
            structure = context.make_array(sig.args[0])(context, builder, args[0])
            element = context.get_data_type(sig.args[0].dtype)
            pointer = builder.gep(structure.data, [args[1]], source_etype=element)
            pointer = builder.bitcast(pointer, _F32.as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [pointer, _I32(0), _I32(cache), _I32(1)])  # for reading, data
            return context.get_dummy_value()

        return types.void(array, index), generate

    typed.__doc__ = doc
    return intrinsic(typed)


prefetch = _prefetching(3, "Ask for the cache line of array[index]; the index may be past the end.")
prefetch_early = _prefetching(2, "`prefetch` into the second cache, where there is room for what is not used at once.")
