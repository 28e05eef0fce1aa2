"""The rule that gives each variant its baseline, for plans and for reports."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def find_baselines(variants: Sequence[Sequence[Hashable]], wanted: Mapping[int, Hashable]) -> tuple[int | None, ...]:
    """Return for each variant the position of its baseline, or None.

    A variant with the wanted values is its own baseline. The baseline of another one is the variant
    that differs from it by these values alone. If there is none, it is the only variant with the
    wanted values; if several have them, none is.

    Args:
        variants: the values of the same knobs in each variant.
        wanted: {position of a knob: value that a baseline has}.
    """
    fitting: dict[tuple[Hashable, ...], list[int]] = {}
    for k, values in enumerate(variants):
        if all(values[place] == value for place, value in wanted.items()):
            fitting.setdefault(tuple(values), []).append(k)
    everyone = [k for of in fitting.values() for k in of]
    own = set(everyone)

    def of_variant(k: int, values: Sequence[Hashable]) -> int | None:
        if k in own:
            return k
        # With two factors, each value of the other one has its own baseline: the variant that k
        # becomes with the wanted values.
        becomes = tuple(wanted.get(place, value) for place, value in enumerate(values))
        candidates = fitting.get(becomes, everyone)
        return candidates[0] if len(candidates) == 1 else None

    return tuple(of_variant(k, values) for k, values in enumerate(variants))
