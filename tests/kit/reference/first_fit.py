"""First-fit packing in arrival order, group by group, as plainly as it can be written."""

from __future__ import annotations

from collections.abc import Sequence


def first_fit(lengths: Sequence[int], capacity: int, group_size: int) -> list[list[int]]:
    """Bins of positions into `lengths`; a position goes into the first bin with room."""
    bins: list[list[int]] = []
    for start in range(0, len(lengths), group_size):
        group: list[list[int]] = []
        for position in range(start, min(start + group_size, len(lengths))):
            size = int(lengths[position])
            for candidate in group:
                if sum(int(lengths[p]) for p in candidate) + size <= capacity:
                    candidate.append(position)
                    break
            else:
                group.append([position])
        bins.extend(group)
    return bins
