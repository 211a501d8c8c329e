"""The operators that a block graph may use. Everything else is refused by name.

ATen operators are listed by packet; of each packet all overloads are allowed that neither write to their
arguments nor draw random numbers. Python operators act on symbolic ints (sizes computed from inputs).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload

from stageline.errors import UnsupportedOperatorError

_ATEN = """
    abs acos acosh add addbmm addcdiv addcmul addmm alias all amax amin aminmax any arange argmax argmin argsort
    as_strided asin asinh atan atan2 atanh atleast_1d atleast_2d avg_pool1d avg_pool2d avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d baddbmm batch_norm bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat ceil celu
    channel_shuffle chunk clamp clamp_max clamp_min clone col2im complex concat constant_pad_nd contiguous conv1d
    conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copysign cos cosh
    cosine_similarity count_nonzero cross cumprod cumsum deg2rad detach diag diag_embed diagonal diff div dot
    einsum elu embedding embedding_bag eq erf erfc exp exp2 expand expand_as expm1 eye fill
    flatten flip floor floor_divide fmod frac full full_like gather ge gelu glu grid_sampler grid_sampler_2d
    group_norm gt hardshrink hardsigmoid hardswish hardtanh heaviside im2col index index_add index_copy
    index_fill index_put index_select inner instance_norm isfinite isinf isnan kthvalue layer_norm le leaky_relu
    lerp lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
    log_softmax _log_softmax logaddexp logical_and logical_not logical_or logical_xor logit logsumexp lt masked_fill
    masked_scatter masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean
    median meshgrid min minimum mish mm movedim mul mv nan_to_num narrow native_batch_norm
    _native_batch_norm_legit_no_training native_group_norm native_layer_norm ne neg new_full new_ones
    new_zeros nonzero norm numpy_T one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle polar pow
    prelu prod rad2deg reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d reshape rms_norm roll round rsqrt rsub scalar_tensor
    scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_scatter selu
    sigmoid sign silu sin sinh slice slice_scatter softmax _softmax softplus softshrink sort split
    split_with_sizes sqrt square squeeze stack std std_mean sub sum swapaxes swapdims sym_numel sym_size
    sym_storage_offset sym_stride t take take_along_dim tan tanh tensor_split threshold tile to _to_copy
    topk transpose tril triu trunc type_as unbind unflatten unfold _unsafe_index _unsafe_view unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_nearest1d upsample_nearest2d var var_mean view
    view_as where xlogy zeros zeros_like __and__ __or__ __xor__
"""
ALLOWED_PACKETS = frozenset(_ATEN.split())

_PYTHON: dict[str, Callable[..., Any]] = {
    **{f"py.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod")},
    **{f"py.{name}": getattr(operator, name) for name in ("neg", "pos", "abs", "pow", "getitem")},
    **{f"py.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")},
    **{f"py.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_not", "sym_float", "sym_int")},
    **{f"py.{name}": getattr(math, name) for name in ("floor", "ceil", "trunc")},
}
_UNARY = frozenset(f"py.{n}" for n in "neg pos abs sym_not sym_float sym_int floor ceil trunc".split())  # noqa: SIM905
_PYTHON_NAMES = {function: name for name, function in _PYTHON.items()}

# Arguments by which an operator that is otherwise pure would train or draw random numbers, by position.
_MUST_BE: dict[str, tuple[int, str, Any]] = {
    "aten.batch_norm.default": (5, "training", False),
    "aten.native_batch_norm.default": (5, "training", False),
    "aten.instance_norm.default": (5, "use_input_stats", True),
    "aten.scaled_dot_product_attention.default": (4, "dropout_p", 0.0),
}


def op_name(target: object) -> str:
    """The name under which a graph stores a call target, e.g. "aten.conv2d.default" or "py.mul"."""
    if isinstance(target, OpOverload):
        return str(target)
    try:
        return _PYTHON_NAMES.get(target, "") or _described(target)  # type: ignore[call-overload]
    except TypeError:
        return _described(target)


def _described(target: object) -> str:
    return str(getattr(target, "__qualname__", target))


@cache
def resolve(name: str) -> Callable[..., Any]:
    """The function behind an allowed name; `UnsupportedOperatorError` naming any other."""
    if name in _PYTHON:
        return _PYTHON[name]
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "aten" and parts[1] in ALLOWED_PACKETS:
        packet = getattr(torch.ops.aten, parts[1], None)
        if packet is not None and parts[2] in packet.overloads():
            overload: OpOverload[..., Any] = getattr(packet, parts[2])
            if _is_pure(overload):
                return overload
    raise UnsupportedOperatorError(
        f"operator {name!r:.120} is not one that stages run; replace it in the model, or ask for it to be added"
    )


def _is_pure(overload: OpOverload[..., Any]) -> bool:
    seeded = torch.Tag.nondeterministic_seeded in overload.tags and str(overload) not in _MUST_BE
    return not overload._schema.is_mutable and not seeded


def check_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a call that does not fit its operator, or that would train or draw random numbers.

    Raises `UnsupportedOperatorError`.
    """
    target = resolve(name)
    if isinstance(target, OpOverload):
        known = target._schema.arguments
        positional = [argument for argument in known if not argument.kwarg_only]
        unknown = set(kwargs) - {argument.name for argument in known}
        if len(args) > len(positional) or unknown:
            raise UnsupportedOperatorError(f"operator {name} is called with arguments that it does not have")
        _check_missing(name, known, len(args), kwargs)
    elif kwargs or len(args) != (1 if name in _UNARY else 2):
        raise UnsupportedOperatorError(f"operator {name} is called with the wrong number of arguments")
    if name in _MUST_BE:
        position, argument_name, wanted = _MUST_BE[name]
        given = args[position] if position < len(args) else kwargs.get(argument_name, wanted)
        if given != wanted:
            raise UnsupportedOperatorError(f"operator {name} is called with {argument_name}={given!r}; use eval mode")


def _check_missing(name: str, known: Any, positional: int, kwargs: dict[str, Any]) -> None:
    for i, argument in enumerate(known):
        given = argument.name in kwargs or (i < positional and not argument.kwarg_only)
        if not given and not argument.has_default_value():
            raise UnsupportedOperatorError(f"operator {name} lacks its argument {argument.name!r}")
