"""Groups of a graph in which a random walk stays long: the two-level map equation (Rosvall and Bergstrom, 2008).

    L = plogp(q) - 2 sum_m plogp(q_m) - sum_a plogp(p_a) + sum_m plogp(q_m + p_m),   plogp(x) = x log2 x

with p_a how often the walk is at node a, p_m in module m, q_m how often it leaves module m, and q = sum_m q_m. The
third term does not depend on the modules. Nodes move greedily, one after another, to the module of a neighbour that
shortens L most; then modules become nodes, until nothing shortens it.
"""

from itertools import pairwise
from math import log2

import numpy as np
import scipy.sparse

_GAIN = 1e-10  # bits; less is rounding
_SWEEPS = 50


def modules(graph: scipy.sparse.csr_array) -> np.ndarray:
    """Return the module of each node, integers (N,) from 0 on.

    Args:
        graph: Symmetric weights (N, N), not negative. A node without an edge is a module of its own.
    """
    labels = np.arange(graph.shape[0])
    if not graph.sum():
        return labels
    flow = (graph / graph.sum()).tocsr()
    visits = np.asarray(flow.sum(axis=1))
    while True:
        found = _Walk(flow, visits).settled()
        labels = found[labels]
        if found.max() + 1 == flow.shape[0]:
            return labels
        members = scipy.sparse.csr_array((np.ones(len(found)), (found, np.arange(len(found)))))
        flow, visits = (members @ flow @ members.T).tocsr(), members @ visits


class _Walk:
    """A walk over nodes, each in a module of its own at first.

    Args:
        flow: How often the walk takes each edge (N, N), symmetric.
        visits: How often it is at each node (N,).
    """

    def __init__(self, flow: scipy.sparse.csr_array, visits: np.ndarray) -> None:
        ends, weights, starts = flow.indices.tolist(), flow.data.tolist(), flow.indptr.tolist()
        self._edges = [
            [(j, w) for j, w in zip(ends[a:b], weights[a:b], strict=True) if j != i]
            for i, (a, b) in enumerate(pairwise(starts))
        ]
        self._visits: list[float] = visits.tolist()
        self._leaving = [sum(w for _, w in edges) for edges in self._edges]
        self._module = list(range(len(visits)))
        self._visited, self._exits, self._all_exits = [*self._visits], [*self._leaving], sum(self._leaving)

    def settled(self) -> np.ndarray:
        """Move nodes until none gains, and return their modules, from 0 on."""
        random = np.random.default_rng(0)
        for _ in range(_SWEEPS):
            moves = [self._move(node) for node in random.permutation(len(self._module)).tolist()]
            if not any(moves):
                break
        return np.unique(self._module, return_inverse=True)[1]

    def _move(self, node: int) -> bool:
        """Put a node into the best module; return whether it is another one."""
        here, p, leaving = self._module[node], self._visits[node], self._leaving[node]
        into: dict[int, float] = {here: 0.0}
        for other, w in self._edges[node]:
            into[self._module[other]] = into.get(self._module[other], 0.0) + w
        # What the module that it leaves gains or loses, and then each that it could enter.
        exits_here = self._exits[here] - leaving + 2 * into.pop(here)
        left = _term(exits_here, self._visited[here] - p) - self._term(here)
        best = (-_GAIN, here, 0.0)
        for there, w in into.items():
            exits = self._exits[there] + leaving - 2 * w
            change = left + _term(exits, self._visited[there] + p) - self._term(there)
            all_exits = self._all_exits + exits_here - self._exits[here] + exits - self._exits[there]
            best = min(best, (change + _plogp(all_exits) - _plogp(self._all_exits), there, exits))
        _, there, exits = best
        if there == here:
            return False
        self._all_exits += exits_here - self._exits[here] + exits - self._exits[there]
        self._exits[here], self._exits[there] = exits_here, exits
        self._visited[here] -= p
        self._visited[there] += p
        self._module[node] = there
        return True

    def _term(self, module: int) -> float:
        return _term(self._exits[module], self._visited[module])


def _term(exits: float, visited: float) -> float:
    """What a module adds to L."""
    return _plogp(exits + visited) - 2 * _plogp(exits)


def _plogp(x: float) -> float:
    return x * log2(x) if x > 0 else 0.0
