"""From a YAML file to a checked Sweep. `docs/sweep-file.md` describes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.config import digest
from moleflow.settings.knobs import Layer, flatten_layer, knob, version_layer
from moleflow.settings.yaml_reader import read_mapping, yaml_text
from orchestrator.sweep import axes, base_choice, file_schema
from orchestrator.sweep.axes import Axis, RandomAxis, check_value
from orchestrator.sweep.conditions import Condition, check_conditions, parse_condition
from orchestrator.sweep.file_schema import EarlyStopping, Resources, SearchKeys, SweepFile
from orchestrator.sweep.overrides import overrides_of
from orchestrator.sweep.search_settings import final_seeds_of, search_layers
from orchestrator.sweep.trial import spell

DATA_VARIABLE = "MOLEFLOW_DATA"
SAMPLE = 16


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: everything that decides which trials there are, and what running them needs.

    Attributes:
        name: the folder of its results; longer than the file's where it runs on another base or other images.
        source: the file, for messages.
        base: what the settings under the axes are called.
        version: the version of the variants that name none.
        layers: {version: settings under the factors}: the version's, the base's, `--set`.
        parts: the axes; the space is their product.
        when: {axis: condition under which it applies}, an axis after those that it depends on.
        exclude: variants for which one of these holds are left out.
        baseline: knobs of the variant that changes are relative to; empty = none.
        data_root: folder of the images; None = the embedded, generated ones.
        data_source: where that folder was given, for messages.
        note: what a reader of any of its tables has to know first; may be empty.
        search: how Optuna looks for the best, where it does; `parts` are then a sample of its space.
        final_seeds: seeds with which what a search chose is tested.
        early_stopping: how Ray Tune stops bad trials, where it does.

    """

    name: str
    question: str
    source: str
    base: str
    version: str | None
    layers: Mapping[str, tuple[Layer, ...]]
    parts: tuple[Axis, ...]
    when: Mapping[str, Condition]
    exclude: tuple[Condition, ...]
    baseline: Mapping[str, Any]
    seeds: tuple[int, ...]
    resources: Resources
    retries: int
    data_root: Path | None
    note: str
    data_source: str = ""
    search: SearchKeys | None = None
    final_seeds: tuple[int, ...] = ()
    early_stopping: EarlyStopping | None = None

    @property
    def stops_early(self) -> bool:
        """Whether trials may be stopped early, for good."""
        return self.early_stopping is not None or (self.search is not None and self.search.pruner != "none")

    @property
    def axes(self) -> tuple[str, ...]:
        """The knobs that are axes, in the order of the parts."""
        return tuple(path for part in self.parts for path in part.knobs)

    def settings(self, version: str) -> dict[str, Any]:
        """The settings under the factors of one version's variants, as {dotted path: value}; others are defaults."""
        return {path: value for layer in self.layers[version] for path, value in flatten_layer(layer).items()}

    def spec(self) -> dict[str, Any]:
        """The sweep as values that canonical JSON takes: equal for sweeps that mean the same, wherever files lie."""
        return {
            "name": self.name,
            "question": self.question,
            "version": self.version,
            "base": self.base,
            "settings": {version: self.settings(version) for version in self.layers},
            "parts": [_plain(part) for part in self.parts],
            "when": {axis: _plain_condition(condition) for axis, condition in self.when.items()},
            "exclude": [_plain_condition(condition) for condition in self.exclude],
            "baseline": dict(self.baseline),
            "seeds": list(self.seeds),
            "resources": self.resources.model_dump(),
            "retries": self.retries,
        } | {
            key: asked.model_dump()
            for key, asked in (("search", self.search), ("early_stopping", self.early_stopping))
            if asked is not None
        }

    def digest(self) -> str:
        """SHA-256, in hex, of the spec."""
        return digest(self.spec())


def _plain(part: Axis) -> dict[str, Any]:
    if isinstance(part, RandomAxis):
        kinds = {path: [source.kind, source.bounds] for path, source in part.distributions.items()}
        return {"count": part.count, "seed": part.seed, "distributions": kinds}
    return {"rows": [dict(row) for row in part.rows]}


def _plain_condition(condition: Condition) -> dict[str, Any]:
    return {path: [required.sign, required.values] for path, required in condition.items()}


def load_sweep(
    path: Path,
    *,
    sets: Sequence[str] = (),
    base: str | None = None,
    data_root: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Sweep:
    """The sweep in a YAML file; see `make_sweep`.

    Raises:
        InvalidInput: no such file, not YAML, or a mistake in it.

    """
    return make_sweep(
        read_mapping(path), str(path), path.parent, sets=sets, base=base, data_root=data_root, environment=environment
    )


def make_sweep(
    document: Mapping[str, Any],
    source: str,
    folder: Path,
    *,
    sets: Sequence[str] = (),
    base: str | None = None,
    data_root: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Sweep:
    """The sweep that a document describes. Reads the files of its bases, and nothing else.

    Args:
        document: the keys of a sweep file.
        source: its name in messages.
        folder: where its relative paths start.
        sets: `key=value` of `--set`, the value in YAML. They win over everything, but cannot set an axis.
        base: `--base`: the name of a base, or the path of a YAML file, in place of the document's; see `ground.lay`.
        data_root: `--data`. Without it the document's `data` counts, and without that MOLEFLOW_DATA.
        environment: where MOLEFLOW_DATA is looked up: `os.environ`, or None for nowhere.

    Raises:
        InvalidInput: any mistake that can be seen without resolving the variants.

    """
    keys = file_schema.parse_sweep_file(document, source)
    parts = _parts(keys, source)
    owners = {path: part for part in parts for path in part.knobs}
    overrides = overrides_of(sets, owners, source)
    version = overrides.pop("version", keys.version)
    if version is None and not _all_name_version(owners):
        raise InvalidInput(f"{source}: version: is missing; give a version's name, or make it an axis")
    root = _data_root(keys, folder, data_root, environment or {})
    chosen = base_choice.choose_base(keys, source, folder, base, root)
    under = search_layers(keys, source)

    versions = dict.fromkeys([] if version is None else [version])
    if "version" in owners:
        versions |= dict.fromkeys(owners["version"].values("version") or ())
    when = {
        _axis(name, owners, f"{source}: when"): parse_condition(given, f"{source}: when.{name}")
        for name, given in keys.when.items()
    }
    exclude = tuple(
        _exclusion(entry, owners, f"{source}: exclude, entry {n}") for n, entry in enumerate(keys.exclude, start=1)
    )
    layers = {
        v: (version_layer(v, source), *under, *chosen.base.layers(v), Layer("--set", overrides)) for v in versions
    }
    check_conditions(layers, owners, when, exclude, source)
    return Sweep(
        name=chosen.name,
        question=keys.question.strip(),
        source=source,
        base=chosen.base.label,
        version=version,
        layers=layers,
        parts=tuple(parts),
        when=_ordered(when, f"{source}: when"),
        exclude=exclude,
        baseline=_baseline(keys.report.baseline, owners, f"{source}: report.baseline", keys.search is not None),
        seeds=chosen.seeds,
        resources=keys.resources,
        retries=keys.retries,
        data_root=root,
        data_source="--data"
        if data_root is not None
        else f"{source}: data"
        if keys.data is not None
        else DATA_VARIABLE,
        note=chosen.note,
        search=keys.search,
        final_seeds=final_seeds_of(keys, chosen.seeds, source),
        early_stopping=keys.early_stopping,
    )


def _data_root(keys: SweepFile, folder: Path, given: Path | None, environment: Mapping[str, str]) -> Path | None:
    if given is not None:
        return given
    if keys.data is not None:
        return folder / Path(keys.data).expanduser()
    return Path(environment[DATA_VARIABLE]) if environment.get(DATA_VARIABLE) else None


def _parts(keys: SweepFile, source: str) -> list[Axis]:
    found = {
        "grid": axes.grid(keys.grid, f"{source}: grid"),
        "zip": axes.zipped(keys.zip, f"{source}: zip"),
        "list": axes.listed(keys.list, f"{source}: list"),
    }
    if keys.random is not None:
        drawn = keys.random
        found["random"] = axes.drawn(drawn.count, drawn.seed, drawn.knobs, f"{source}: random.knobs")
    if keys.search is not None:
        given = [key for key, parts in found.items() if parts]
        if given:
            raise InvalidInput(f"{source}: search: takes the place of axes, but there is {given[0]}; keep one of them")
        asked = keys.search
        found["search"] = axes.drawn(SAMPLE, asked.seed, asked.space, f"{source}: search.space")
    owner: dict[str, str] = {}
    for key, parts in found.items():
        for path in (path for part in parts for path in part.knobs):
            if path in owner:
                both = f"{owner[path]} and {key}"
                raise InvalidInput(f"{source}: two axes over one knob: {path} is in {both}; keep one of them")
            owner[path] = key
    return [part for parts in found.values() for part in parts]


def _all_name_version(owners: Mapping[str, Axis]) -> bool:
    part = owners.get("version")
    return part is not None and (isinstance(part, RandomAxis) or all("version" in row for row in part))


def _axis(name: str, owners: Mapping[str, Axis], source: str) -> str:
    """The path of the axis called `name`."""
    path = knob(str(name), source)
    if path not in owners:
        raise InvalidInput(f"{source}: {path} is not an axis of this sweep; its axes: {', '.join(owners) or 'none'}")
    return path


def _ordered(when: Mapping[str, Condition], source: str) -> dict[str, Condition]:
    """The conditions, each after those of the axes that it looks at."""
    order = TopologicalSorter({axis: [path for path in condition if path in when] for axis, condition in when.items()})
    try:
        return {axis: when[axis] for axis in order.static_order()}
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InvalidInput(f"{source}: the axes {circle} depend on one another in a circle") from None


def _exclusion(entry: object, owners: Mapping[str, Axis], source: str) -> Condition:
    found = parse_condition(entry, source)
    if not any(path in owners for path in found):
        raise InvalidInput(
            f"{source}: none of {', '.join(found)} is an axis, so this leaves out every variant or none; "
            f"the axes: {', '.join(owners) or 'none'}"
        )
    return found


def _baseline(given: Mapping[str, Any], owners: Mapping[str, Axis], source: str, searched: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flatten_layer(Layer(source, given)).items():
        path = _axis(name, owners, source)
        found[path] = check_value(path, value, source)
        part = owners[path]
        values = part.values(path)
        if searched and isinstance(part, RandomAxis) and part.distributions[path].kind in ("uniform", "loguniform"):
            raise InvalidInput(
                f"{source}: a search draws its values, so none is exactly {spell(found[path])}; "
                "put it in search.space as a choice, or leave report.baseline out"
            )
        # A variant of `list` that leaves the knob out has the base's value: which that is shows when variants resolve.
        everywhere = isinstance(owners[path], RandomAxis) or all(path in row for row in owners[path])
        if values is not None and everywhere and found[path] not in values:
            spelled = [spell(v) for v in values]
            hint = did_you_mean(spell(found[path]), spelled)
            raise InvalidInput(
                f"{source}: {path}: given {yaml_text(value)}, but the axis has: {', '.join(spelled)}{hint}"
            )
    return found
