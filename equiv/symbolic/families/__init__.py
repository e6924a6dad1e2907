"""The twelve families of identities."""

from equiv.symbolic.families import (
    attention,
    depthwise,
    express,
    generated,
    gradient,
    linear,
    linformer,
    merged,
    mixture,
    query_key,
    softmax,
    window,
)

_IN_ORDER = (
    linear,
    query_key,
    attention,
    window,
    linformer,
    merged,
    depthwise,
    mixture,
    generated,
    softmax,
    express,
    gradient,
)
FAMILIES = tuple(module.FAMILY for module in _IN_ORDER)
