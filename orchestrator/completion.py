"""What a shell offers after Tab, where it is not a file: names of bases and versions, backends, knobs and their values."""

from __future__ import annotations

from collections.abc import Callable


def of(*words: str) -> Callable[[str], list[str]]:
    """Those of `words` that go on as typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def bases(incomplete: str) -> list[str]:
    """The bases that come with the project."""
    from moleflow.knobs import base_names

    return of(*base_names())(incomplete)


def versions(incomplete: str) -> list[str]:
    """The method versions."""
    from moleflow.knobs import version_names

    return of(*version_names())(incomplete)


def settings(incomplete: str) -> list[str]:
    """`knob=` while the name is typed, and `knob=value` after it where there are few values."""
    from moleflow.knobs import choices, fields, knob, short_names

    name, given, _ = incomplete.partition("=")
    names = [path for path in (*short_names(), *fields()) if path != "seed"]
    if not given:
        return [f"{path}=" for path in names if path.startswith(incomplete)]
    if name not in names:
        return []
    return [f"{name}={value}" for value in choices(knob(name, "--set")) if f"{name}={value}".startswith(incomplete)]
