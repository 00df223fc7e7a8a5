from collections import Counter
from collections.abc import Iterable

from common.artifacts import Table
from common.deployment.qnn_htp import Placement


def placement_table(placement: Iterable[Placement]) -> Table:
    """Operators as the HTP compiler placed them, those of one type, place, data types and reason in one row."""
    groups = Counter(
        (
            row.type,
            row.placed_on,
            row.kind,
            ",".join(row.inputs[:1]),
            ",".join(row.weights),
            ",".join(row.outputs),
            row.reason,
        )
        for row in placement
    )
    return Table(
        "Operator placement",
        ("operator", "count", "placed on", "kind", "input", "weights", "output", "reason"),
        tuple((key[0], count, *key[1:]) for key, count in groups.most_common()),
    )
