"""From a YAML file to a checked Sweep. `docs/sweep-file.md` describes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moleflow.config import digest
from moleflow.documents import parse, read_mapping, shown
from moleflow.errors import InvalidInput, did_you_mean
from moleflow.knobs import Layer, allowed, fields, flatten_layer, knob, version_layer
from orchestrator import axes, ground, sweep_file
from orchestrator.axes import Condition, Draws, Part, checked, fits
from orchestrator.conditions import check_conditions
from orchestrator.sweep_file import COSTS, SELECTION, EarlyStopping, Resources, Search, SweepFile
from orchestrator.trial import spell

DATA_VARIABLE = "MOLEFLOW_DATA"
SELECTED_ON = {"data.validation_fraction": 0.2, "data.validation_anomalies": "synthetic"}
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
    parts: tuple[Part, ...]
    when: Mapping[str, Condition]
    exclude: tuple[Condition, ...]
    baseline: Mapping[str, Any]
    seeds: tuple[int, ...]
    resources: Resources
    retries: int
    data_root: Path | None
    note: str
    data_source: str = ""
    search: Search | None = None
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


def _plain(part: Part) -> dict[str, Any]:
    if isinstance(part, Draws):
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
    keys = sweep_file.parsed(document, source)
    parts = _parts(keys, source)
    owners = {path: part for part in parts for path in part.knobs}
    overrides = _overrides(sets, owners, source)
    version = overrides.pop("version", keys.version)
    if version is None and not _all_name_version(owners):
        raise InvalidInput(f"{source}: version: is missing; give a version's name, or make it an axis")
    root = _data_root(keys, folder, data_root, environment or {})
    chosen = ground.lay(keys, source, folder, base, root)
    under = _of_search(keys, source)

    versions = dict.fromkeys([] if version is None else [version])
    if "version" in owners:
        versions |= dict.fromkeys(owners["version"].values("version") or ())
    when = {
        _axis(name, owners, f"{source}: when"): axes.condition(given, f"{source}: when.{name}")
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
        final_seeds=_final_seeds(keys, chosen.seeds, source),
        early_stopping=keys.early_stopping,
    )


def _of_search(keys: SweepFile, source: str) -> list[Layer]:
    """What lies under a search's base: images to select on, none of them a test image."""
    if keys.search is None:
        return []
    asked = keys.search
    if keys.version is None:
        raise InvalidInput(
            f"{source}: version: is missing; a search starts from one, also where version is in its space"
        )
    for key, names in (("objectives", asked.objectives), ("constraints", asked.constraints)):
        unknown = [name for name in names if name not in (*SELECTION, *COSTS)]
        if unknown:
            known = ", ".join((*SELECTION, *COSTS))
            hint = did_you_mean(unknown[0], (*SELECTION, *COSTS))
            raise InvalidInput(f"{source}: search.{key}: unknown metric '{unknown[0]}'; allowed: {known}{hint}")
    if asked.sampler == "cmaes" and (len(asked.objectives) > 1 or asked.constraints):
        raise InvalidInput(
            f"{source}: search.sampler: cmaes knows one objective and no constraints; allowed here: tpe | gp | nsga2 | random | qmc"
        )
    if asked.pruner != "none" and (len(asked.objectives) > 1 or not set(asked.objectives) <= set(SELECTION)):
        raise InvalidInput(
            f"{source}: search.pruner: '{asked.pruner}' needs one objective, a metric of the images; "
            f"given: {', '.join(asked.objectives)}"
        )
    if keys.early_stopping is not None:
        raise InvalidInput(f"{source}: early_stopping: a search stops trials by search.pruner; keep one of them")
    return [Layer(f"{source}: search", dict(SELECTED_ON))]


def _final_seeds(keys: SweepFile, seeds: tuple[int, ...], source: str) -> tuple[int, ...]:
    """Where fewer seeds than the file's take their place, they do for the finalists too."""
    if keys.search is None or keys.search.final_seeds is None or seeds != ground.seeds_of(keys.seeds, source):
        return seeds
    return ground.seeds_of(keys.search.final_seeds, f"{source}: search.final_seeds")


def _data_root(keys: SweepFile, folder: Path, given: Path | None, environment: Mapping[str, str]) -> Path | None:
    if given is not None:
        return given
    if keys.data is not None:
        return folder / Path(keys.data).expanduser()
    return Path(environment[DATA_VARIABLE]) if environment.get(DATA_VARIABLE) else None


def _parts(keys: SweepFile, source: str) -> list[Part]:
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


def _all_name_version(owners: Mapping[str, Part]) -> bool:
    part = owners.get("version")
    return part is not None and (isinstance(part, Draws) or all("version" in row for row in part))


def parse_sets(sets: Sequence[str], refused: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """`key=value` of `--set` as {dotted path: value}.

    Args:
        sets: as they were given.
        refused: knobs that are set elsewhere, with what to say of them; `{}` in it stands for the value.

    Raises:
        InvalidInput: not of that form, an unknown knob, a wrong value, or a knob given twice.

    """
    found: dict[str, Any] = {}
    for given in sets:
        where = f"--set {given}"
        for path, value in _setting(given, where).items():
            if path in refused:
                raise InvalidInput(f"{where}: {refused[path].format(shown(value))}")
            if path in found:
                raise InvalidInput(f"{where}: {path} is set twice; keep one of them")
            found[path] = checked(path, value, where)
    return found


def _setting(given: str, where: str) -> dict[str, Any]:
    """One `key=value` as {dotted path: value}, before the value is checked."""
    name, equals, text = (part.strip() for part in given.partition("="))
    if not equals or not name:
        missing = "no knob before '='" if equals else "no '='"
        raise InvalidInput(f"{where}: {missing}; write knob=value, as in --set epochs=5")
    value = parse(text, where)
    group = [path for path in fields() if path.startswith(f"{name}.")]
    if group and not isinstance(value, Mapping):
        example = next((path for path in group if fits(path, value)), group[0])
        raise InvalidInput(f"{where}: {name} is a group; name one of its knobs, as in --set {example}={text}")
    found = flatten_layer(Layer(where, {name: value}))
    for path, one in found.items():
        usual = fields()[path].default
        if isinstance(usual, tuple) and not isinstance(one, list):
            example = f"--set '{name}=[{', '.join(map(str, usual[:2]))}]'"
            raise InvalidInput(f"{where}: {path}: given {shown(one)}, allowed: {allowed(path)}, as in {example}")
    return found


def _overrides(sets: Sequence[str], owners: Mapping[str, Part], source: str) -> dict[str, Any]:
    refused = {path: f"{path} is an axis of this sweep; edit the axis in {source}" for path in owners}
    return parse_sets(sets, {"seed": f"a sweep's seeds are set by `seeds` in {source}", **refused})


def _axis(name: str, owners: Mapping[str, Part], source: str) -> str:
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


def _exclusion(entry: object, owners: Mapping[str, Part], source: str) -> Condition:
    condition = axes.condition(entry, source)
    if not any(path in owners for path in condition):
        raise InvalidInput(
            f"{source}: none of {', '.join(condition)} is an axis, so this leaves out every variant or none; "
            f"the axes: {', '.join(owners) or 'none'}"
        )
    return condition


def _baseline(given: Mapping[str, Any], owners: Mapping[str, Part], source: str, searched: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in flatten_layer(Layer(source, given)).items():
        path = _axis(name, owners, source)
        found[path] = checked(path, value, source)
        part = owners[path]
        values = part.values(path)
        if searched and isinstance(part, Draws) and part.distributions[path].kind in ("uniform", "loguniform"):
            raise InvalidInput(
                f"{source}: a search draws its values, so none is exactly {spell(found[path])}; "
                "put it in search.space as a choice, or leave report.baseline out"
            )
        # A variant of `list` that leaves the knob out has the base's value: which that is shows when variants resolve.
        everywhere = isinstance(owners[path], Draws) or all(path in row for row in owners[path])
        if values is not None and everywhere and found[path] not in values:
            spelled = [spell(v) for v in values]
            hint = did_you_mean(spell(found[path]), spelled)
            raise InvalidInput(f"{source}: {path}: given {shown(value)}, but the axis has: {', '.join(spelled)}{hint}")
    return found
