"""An explicit SIMD vector for Numba: `vector` is LLVM's <LANES x float>, `mask` is <LANES x i1>.

Compilers rarely vectorise code with branches and scattered accesses by themselves; written out with this type the same
kernels run at the speed of hand-written C++. Everything here is for use inside compiled functions: `+ - * /`, unary `-`
and the comparisons work on vectors (and on a vector with a scalar, which is broadcast as float32), `& | ^ ~` on masks,
and the functions below do the rest. Moving data between lanes is in `lanes.py`.

Arrays are flat and contiguous, or buffers made by `stack`; an index counts elements. Access to memory is raw: no
negative indices, no bounds checks. With RECON_SIMD_CHECK=1 in the environment every access to an array is checked and
raises IndexError instead (for tests).

Multiplications and additions may be fused, and the sign of zero and the rounding of x / y are free. NaN and infinity
keep their meaning and sums keep their order. Comparisons with NaN are false.
"""

from __future__ import annotations

import math
import operator
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

FLAGS = ("contract", "nsz", "arcp")  # "reassoc" would break `exp2`, "nnan" would hide NaN


def _host_features() -> set[str]:
    """The CPU features that Numba compiles for."""
    if numba.config.CPU_FEATURES is not None:
        return {word[1:] for word in numba.config.CPU_FEATURES.split(",") if word.startswith("+")}
    if numba.config.CPU_NAME is not None:
        return set()
    try:
        return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}
    except RuntimeError:  # llvmlite does not know this processor
        return set()


def _choose_lanes() -> int:
    """Floats in the widest register of the processor: 16 with AVX-512, 8 with AVX2, else 4 (NEON, SSE)."""
    asked = os.environ.get("RECON_SIMD_LANES")
    if asked:
        if asked not in ("4", "8", "16"):
            raise ValueError(f"RECON_SIMD_LANES={asked}: not 4, 8 or 16")
        return int(asked)
    features = _host_features()
    if {"avx512f", "avx512dq", "avx512vl"} <= features:
        return 16
    return 8 if {"avx2", "fma"} <= features else 4


LANES = _choose_lanes()
CHECKED = os.environ.get("RECON_SIMD_CHECK") == "1"

# A division by zero gives infinity; nobody counts references to arrays, which are shared: threads would wait for it.
OPTIONS = {"error_model": "numpy", "fastmath": set(FLAGS), "_nrt": False}

# Decorator of functions that kernels call.
inline = numba.njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR, _INTS, _BITS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES), ir.VectorType(ir.IntType(1), LANES)


class _VectorType(types.Type): ...


class _MaskType(types.Type): ...


vector, mask = _VectorType(f"vector{LANES}"), _MaskType(f"mask{LANES}")


def _represent(numba_type: type, llvm_type: ir.Type) -> None:
    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, own_type: Any) -> None:
            super().__init__(manager, own_type, llvm_type)

    register_model(numba_type)(Model)


_represent(_VectorType, _VECTOR)
_represent(_MaskType, _BITS)


# ------------------------------------------------------------------------------------------ code generation helpers


def _constant(value: float) -> ir.Constant:
    single = struct.unpack("f", struct.pack("f", value))[0]  # LLVM accepts only exact float32 constants
    return ir.Constant(_VECTOR, [single] * LANES)


def _int_constant(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


def _is_scalar(numba_type: Any) -> bool:
    return isinstance(numba_type, types.Float | types.Integer)


def _to_float(builder: ir.IRBuilder, numba_type: Any, value: ir.Value) -> ir.Value:
    """A scalar as float32."""
    if numba_type == types.float64:
        return builder.fptrunc(value, _F32)
    if isinstance(numba_type, types.Integer):
        return builder.sitofp(value, _F32) if numba_type.signed else builder.uitofp(value, _F32)
    return value


def _to_vector(builder: ir.IRBuilder, numba_type: Any, value: ir.Value) -> ir.Value:
    """A vector as it is, a scalar in every lane."""
    if numba_type == vector:
        return value
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, _to_float(builder, numba_type, value), _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _vectors(builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> list[ir.Value]:
    return [_to_vector(builder, t, a) for t, a in zip(sig.args, args, strict=True)]


def call_llvm(builder: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call an LLVM intrinsic by its mangled name."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args, fastmath=FLAGS)


def element_pointer(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value, accessed: ir.Type
) -> ir.Value:
    """The address of `array[index]`, where one `accessed` (a number or a whole vector) is about to be used."""
    element = context.get_data_type(array_type.dtype)
    if isinstance(array_type, types.Array):
        structure = context.make_array(array_type)(context, builder, array)
        if CHECKED:
            count = accessed.count if isinstance(accessed, ir.VectorType) else 1
            inside = builder.and_(
                builder.icmp_signed(">=", index, ir.Constant(index.type, 0)),
                builder.icmp_signed("<=", builder.add(index, ir.Constant(index.type, count)), structure.nitems),
            )
            with builder.if_then(builder.not_(inside), likely=False):
                context.call_conv.return_user_exc(builder, IndexError, (f"{count} elements of {array_type}",))
        array = structure.data
    pointer = builder.gep(array, [index], source_etype=element)
    return builder.bitcast(pointer, accessed.as_pointer())


# ------------------------------------------------------------------------------------------ operators


def _type_operator(op: Callable[..., Any], typed: Callable[..., Any]) -> None:
    """Let `typed` give the result type of an operator; None where it does not apply."""

    class Template(AbstractTemplate):
        # More specific than Numba's own templates, so that it is asked first: kernels compile a fifth faster.
        metadata: ClassVar = {"target": "cpu"}

        def generic(self, args: Any, keywords: Any) -> Any:
            result = typed(*args)
            return None if result is None else signature(result, *args)

    infer_global(op)(Template)


def _operator(op: Callable[..., Any], result: Any, emit: Callable[..., ir.Value]) -> None:
    """Define a binary operator of vectors, and of a vector with a scalar on either side."""

    def typed(a: Any, b: Any) -> Any:
        return result if (a == vector and (b == vector or _is_scalar(b))) or (b == vector and _is_scalar(a)) else None

    _type_operator(op, typed)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        return emit(builder, *_vectors(builder, sig, args))

    lower_builtin(op, _VectorType, _VectorType)(lower)
    for scalar in (types.Float, types.Integer):
        lower_builtin(op, _VectorType, scalar)(lower)
        lower_builtin(op, scalar, _VectorType)(lower)


_operator(operator.add, vector, lambda builder, a, b: builder.fadd(a, b, flags=FLAGS))
_operator(operator.sub, vector, lambda builder, a, b: builder.fsub(a, b, flags=FLAGS))
_operator(operator.mul, vector, lambda builder, a, b: builder.fmul(a, b, flags=FLAGS))
_operator(operator.truediv, vector, lambda builder, a, b: builder.fdiv(a, b, flags=FLAGS))
_operator(operator.lt, mask, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_operator(operator.le, mask, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_operator(operator.gt, mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_operator(operator.ge, mask, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))
_operator(operator.eq, mask, lambda builder, a, b: builder.fcmp_ordered("==", a, b))
_operator(operator.ne, mask, lambda builder, a, b: builder.fcmp_unordered("!=", a, b))


def _mask_operator(op: Callable[..., Any], emit: Callable[..., ir.Value]) -> None:
    _type_operator(op, lambda a, b: mask if a == mask and b == mask else None)
    lower_builtin(op, _MaskType, _MaskType)(lambda context, builder, sig, args: emit(builder, *args))


_mask_operator(operator.and_, lambda builder, a, b: builder.and_(a, b))
_mask_operator(operator.or_, lambda builder, a, b: builder.or_(a, b))
_mask_operator(operator.xor, lambda builder, a, b: builder.xor(a, b))


_type_operator(operator.neg, lambda a: vector if a == vector else None)
_type_operator(operator.invert, lambda a: mask if a == mask else None)
lower_builtin(operator.neg, _VectorType)(lambda context, builder, sig, args: builder.fneg(args[0], flags=FLAGS))
lower_builtin(operator.invert, _MaskType)(lambda context, builder, sig, args: builder.not_(args[0]))


# ------------------------------------------------------------------------------------------ making vectors, memory


@intrinsic
def broadcast(typing_context: Any, x: Any) -> Any:
    """The scalar `x` in every lane."""
    return vector(x), lambda context, builder, sig, args: _to_vector(builder, sig.args[0], args[0])


@intrinsic
def lane_index(typing_context: Any) -> Any:
    """(0, 1, ..., LANES - 1) as floats."""
    return vector(), lambda context, builder, sig, args: ir.Constant(_VECTOR, [float(i) for i in range(LANES)])


@intrinsic
def stack(typing_context: Any, count: Any) -> Any:
    """A buffer of `count` (a literal) float32 on the stack, uninitialised, for the whole call of the kernel."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    length = count.literal_value

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        with builder.goto_entry_block():
            buffer = builder.alloca(ir.ArrayType(_F32, length))
            buffer.align = 64
        return builder.bitcast(buffer, context.get_value_type(sig.return_type))

    return types.CPointer(types.float32)(count), generate


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index : index + LANES]"""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _VECTOR)
        return builder.load(pointer, typ=_VECTOR, align=4)

    return vector(array, index), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + LANES] = value"""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], _VECTOR)
        builder.store(_to_vector(builder, sig.args[2], args[2]), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def get(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index] of any number type; integers of every width come as int64."""
    dtype = array.dtype
    result = types.int64 if isinstance(dtype, types.Integer) else dtype

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        element = context.get_data_type(dtype)
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], element)
        value = builder.load(pointer, typ=element)
        if result != dtype and dtype.bitwidth < 64:
            value = builder.sext(value, _I64) if dtype.signed else builder.zext(value, _I64)
        return value

    return result(array, index), generate


@intrinsic
def put(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] = value, converted to the array's number type; integers wrap around."""
    dtype = array.dtype
    wide = types.int64 if isinstance(dtype, types.Integer) else dtype

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        element = context.get_data_type(dtype)
        pointer = element_pointer(context, builder, sig.args[0], args[0], args[1], element)
        number = context.cast(builder, args[2], sig.args[2], wide)
        if wide != dtype and dtype.bitwidth < 64:
            number = builder.trunc(number, element)
        builder.store(number, pointer)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


# ------------------------------------------------------------------------------------------ functions of vectors


@intrinsic
def select(typing_context: Any, where: Any, a: Any, b: Any) -> Any:
    """`a` in the lanes where the mask is set, `b` in the others."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
        first, second = (_to_vector(builder, sig.args[i], args[i]) for i in (1, 2))
        return builder.select(args[0], first, second)

    return vector(where, a, b), generate


def _bounded(predicate: str) -> Callable[..., Any]:
    def typed(typing_context: Any, x: Any, bound: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[ir.Value]) -> ir.Value:
            value, limit = _vectors(builder, sig, args)
            return builder.select(builder.fcmp_ordered(predicate, limit, value), limit, value)

        return vector(x, bound), generate

    return typed


# One machine instruction each; the order of the arguments matters for NaN only: a NaN in `x` stays.
minimum = intrinsic(_bounded("<"))
maximum = intrinsic(_bounded(">"))


def _unary(emit: Callable[[ir.IRBuilder, ir.Value], ir.Value], doc: str) -> Callable[..., Any]:
    def typed(typing_context: Any, x: Any) -> Any:
        return vector(vector), lambda context, builder, sig, args: emit(builder, args[0])

    typed.__doc__ = doc
    return intrinsic(typed)


def _with_bits(builder: ir.IRBuilder, x: ir.Value, op: str, bits: int) -> ir.Value:
    changed = getattr(builder, op)(builder.bitcast(x, _INTS), _int_constant(bits))
    return builder.bitcast(changed, _VECTOR)


def _polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """Horner's scheme; the highest power comes first."""
    value = _constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = builder.fadd(builder.fmul(value, x, flags=FLAGS), _constant(coefficient), flags=FLAGS)
    return value


def _exp2(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # Adding 1.5 * 2^23 leaves the nearest integer in the low bits; 2^fraction is a minimax polynomial on [-1/2, 1/2]
    # with value 1 at 0; the integer goes into the exponent field.
    magic = _constant(12582912.0)
    shifted = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(shifted, magic))
    power = _polynomial(builder, fraction, _EXP2)
    exponent = builder.shl(builder.bitcast(shifted, _INTS), _int_constant(23))
    return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _VECTOR)


def _log2(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    # x = 2^e m with m in [sqrt(1/2), sqrt(2)); log2(m) = 2 / ln(2) artanh(s), s = (m - 1) / (m + 1), as a series.
    bits = builder.bitcast(x, _INTS)
    exponent = builder.ashr(builder.sub(bits, _int_constant(0x3F3504F3)), _int_constant(23))
    m = builder.bitcast(builder.sub(bits, builder.shl(exponent, _int_constant(23))), _VECTOR)
    s = builder.fdiv(builder.fsub(m, _constant(1.0)), builder.fadd(m, _constant(1.0)), flags=FLAGS)
    series = _polynomial(builder, builder.fmul(s, s), [2 / math.log(2) / k for k in (9, 7, 5, 3, 1)])
    return builder.fadd(builder.sitofp(exponent, _VECTOR), builder.fmul(series, s, flags=FLAGS), flags=FLAGS)


_EXP2 = (0.0013276472, 0.0096755413, 0.0555071327, 0.2402211972, 0.6931469671, 1.0)
_FLOAT_SUFFIX = f"v{LANES}f32"

sqrt = _unary(lambda b, x: call_llvm(b, f"llvm.sqrt.{_FLOAT_SUFFIX}", _VECTOR, [x]), "The square root.")
ceil = _unary(lambda b, x: call_llvm(b, f"llvm.ceil.{_FLOAT_SUFFIX}", _VECTOR, [x]), "Rounded up.")
floor = _unary(lambda b, x: call_llvm(b, f"llvm.floor.{_FLOAT_SUFFIX}", _VECTOR, [x]), "Rounded down.")
absolute = _unary(lambda b, x: _with_bits(b, x, "and_", 0x7FFFFFFF), "|x|")
negative_absolute = _unary(lambda b, x: _with_bits(b, x, "or_", 0x80000000), "-|x|; its sign bit is always set.")
integer_bits = _unary(
    lambda b, x: b.bitcast(b.fptosi(x, _INTS), _VECTOR), "The bits of the int32 that whole numbers are, to be stored."
)
exp2_bounded = _unary(_exp2, "2^x for -126 <= x < 127.5, relative error 3e-7; outside, anything.")
log2_positive = _unary(_log2, "log2(x) for normal x > 0, error 1e-7; for others, anything.")


@inline
def exp2(x: Any) -> Any:
    """2^x, relative error 3e-7, held to [2^-126, 2^127.4]; NaN stays NaN."""
    return exp2_bounded(maximum(minimum(x, 127.4), -126.0))
