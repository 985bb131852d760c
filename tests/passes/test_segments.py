"""Native calls: every region in one, in an order that can run, and no path leaves a call and comes back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_graphs import SUPPORTED, depends, random_graph

from tilewright.frontends.jaxpr import to_graph
from tilewright.passes.fusion import greedy
from tilewright.passes.regions import Region
from tilewright.passes.segments import segments


@pytest.mark.parametrize("seed", range(40))
def test_segments_hold_all_regions_and_can_run_in_order(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 24, foreign=0.25)
    regions = greedy(graph, SUPPORTED)
    native = [r for r in regions if r.kind != "view"]
    found = segments(graph, native)
    inside = [m for s in found for m in s.members]
    assert len(inside) == len(set(inside))
    wanted = {m for r in native if r.kind != "alias" for m in r.members}
    assert wanted <= set(inside) <= {m for r in native for m in r.members}
    reached = depends(graph)
    for number, segment in enumerate(found):
        members = set(segment.members)
        outside = set(range(len(graph.ops))) - members
        for between in outside:
            above = reached[between] & members
            below = any(between in reached[m] for m in members)
            assert not (above and below), f"op {between} stands between members of segment {number}"
        for later in found[number + 1 :]:
            assert not any(reached[m] & set(later.members) for m in members)
        done = set()
        for region in segment.regions:
            for member in region.members:
                direct = {graph.producers[v] for v in graph.ops[member].operands if v in graph.producers}
                assert (direct & members) <= done | set(region.members)
            done |= set(region.members)


def test_regions_without_xla_between_them_share_one_call():
    graph = random_graph(np.random.default_rng(1), 20, foreign=0.0)
    native = [r for r in greedy(graph, SUPPORTED) if r.kind != "view"]
    views = [r for r in greedy(graph, SUPPORTED) if r.kind == "view"]
    if not views:
        assert len(segments(graph, native)) == 1


def _two_circles(fn):
    graph = to_graph(jax.make_jaxpr(fn)(jnp.zeros(3)))
    opcodes = [op.opcode for op in graph.ops]
    groups = [tuple(n for n, code in enumerate(opcodes) if code == name) for name in ("exp", "sin")]
    return graph, [Region(members, "elementwise", (3,)) for members in groups]


def test_regions_that_wait_for_each_other_are_refused():
    graph, regions = _two_circles(lambda x: (jnp.sin(jnp.exp(x)), jnp.exp(jnp.sin(x))))
    with pytest.raises(ValueError, match="do not depend on each other"):
        segments(graph, regions)


def test_regions_that_wait_for_each_other_through_xla_are_refused():
    graph, regions = _two_circles(lambda x: (jnp.sin(jnp.tan(jnp.exp(x))), jnp.exp(jnp.tan(jnp.sin(x)))))
    with pytest.raises(ValueError, match="do not depend on each other"):
        segments(graph, regions)
