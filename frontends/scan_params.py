"""Parameters of JAX's `scan` as the graph IR keeps them, and back.

JAX counts operands and results by numbers up to 0.10, and by trees since 0.11 (`ft_in`, `ft_out`): of invariants,
carries and what is sliced, and of carries and what is stacked.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr

from ..ir.scan import PARAMS

_TREES = frozenset(("ft_in", "ft_out"))
_NUMBERS = frozenset(("num_consts", "num_carry"))


def plain_scan(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters of a `scan` but its body as numbers; None if JAX has others than are known here."""
    found = {name: value for name, value in params.items() if name != "jaxpr"}
    if set(found) == (PARAMS - _NUMBERS) | _TREES:
        consts, carries, _ = found["ft_in"].unpack()
        numbers = {"num_consts": len(consts), "num_carry": len(carries)}
        return {name: value for name, value in found.items() if name not in _TREES} | numbers
    return found if set(found) == PARAMS else None


def scan_params(params: Mapping[str, Any], body: ClosedJaxpr) -> dict[str, Any]:
    """The parameters of a `scan` as the installed JAX wants them.

    Args:
        params: what `plain_scan` gives.
        body: what is repeated.
    """
    if importlib.util.find_spec("jax._src.flattree") is None:
        return {**params, "jaxpr": body}
    flattree: Any = importlib.import_module("jax._src.flattree")  # exported by no public module
    consts, carries = params["num_consts"], params["num_carry"]
    sliced, stacked = len(body.in_avals) - consts - carries, len(body.out_avals) - carries
    trees = {
        "ft_in": flattree.pack(tuple(map(flattree.nones, (consts, carries, sliced)))),
        "ft_out": flattree.pack(tuple(map(flattree.nones, (carries, stacked)))),
    }
    return {name: value for name, value in params.items() if name not in _NUMBERS} | trees | {"jaxpr": body}
