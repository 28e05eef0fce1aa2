"""The sweep: a checked sweep file. `docs/sweep-file.md` describes the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, flatten_layer, knob, version_layer
from moleflow.settings.paths import expand_path
from moleflow.settings.yaml_reader import read_mapping, yaml_text
from moleflow.suggestions import hint_at
from orchestrator.sweep import axes
from orchestrator.sweep.axes import Axis, RandomAxis, check_value, grid_axes
from orchestrator.sweep.base_choice import Base, choose_base
from orchestrator.sweep.conditions import Condition, check_conditions, parse_condition
from orchestrator.sweep.file_schema import EarlyStopping, Resources, SearchKeys, SweepFile, parse_sweep_file
from orchestrator.sweep.footing import YARDSTICK
from orchestrator.sweep.overrides import parse_sets, set_resources
from orchestrator.sweep.search_settings import final_seeds_of, search_layers
from orchestrator.sweep.trial import spell

DATA_VARIABLE = "MOLEFLOW_DATA"
_BANK = "bank.enabled"
_TASKS = "data.tasks"
SEARCH_SAMPLE = 16
"""Random configurations of a search's space that are checked before it starts."""


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: everything that decides its trials, and what running them needs.

    Attributes:
        name: the name of its results folder; longer than in the file if base or images differ.
        question: the question that the sweep answers; may be empty.
        source: the sweep file, for messages.
        base: the name of the settings under the axes.
        version: the version of the variants that name none.
        layers: {version: settings under the factors}: the version's, the base's and `--set`.
        axes: the axes; the variants are their product.
        when: {knob: condition under which it is varied}, each after the knobs that it looks at.
        exclude: conditions of the variants that are left out.
        baseline: knobs of the variant that tables compare with; empty = none.
        seeds: the seeds of every variant.
        resources: the resources of one trial.
        retries: how many further attempts a failed trial gets.
        data_root: the folder of the images; None = the embedded, generated images.
        note: a sentence that every table of the sweep shows first; may be empty.
        data_source: the option, key or variable that gave `data_root`, for messages.
        search: the settings of a search; its `axes` are then a random sample of the space.
        final_seeds: the seeds that test a search's finalists.
        early_stopping: the rule by which Ray Tune stops trials.
        yardstick: true to add trials of a memory bank, which is no variant.
        keep: the trained detectors that are stored with the results: of the best variant, or all.

    """

    name: str
    question: str
    source: str
    base: str
    version: str | None
    layers: Mapping[str, tuple[Layer, ...]]
    axes: tuple[Axis, ...]
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
    yardstick: bool = False
    keep: Literal["best", "all"] | None = None

    @property
    def stops_early(self) -> bool:
        """True if a pruner or a rule of Ray Tune may stop trials, which then count as pruned."""
        return self.early_stopping is not None or (self.search is not None and self.search.pruner != "none")

    @property
    def knobs(self) -> tuple[str, ...]:
        """The dotted paths of the knobs that are varied, in the order of the axes."""
        return tuple(path for axis in self.axes for path in axis.knobs)

    def settings(self, version: str) -> dict[str, Any]:
        """The settings under a version's factors, {dotted path: value}; the rest are defaults."""
        return {path: value for layer in self.layers[version] for path, value in flatten_layer(layer).items()}

    def spec(self) -> dict[str, Any]:
        """The sweep as plain values for JSON, without paths; equal sweeps have equal specs."""
        return {
            "name": self.name,
            "question": self.question,
            "version": self.version,
            "base": self.base,
            "settings": {version: self.settings(version) for version in self.layers},
            "parts": [_plain_axis(axis) for axis in self.axes],
            "when": {path: _plain_condition(condition) for path, condition in self.when.items()},
            "exclude": [_plain_condition(condition) for condition in self.exclude],
            "baseline": dict(self.baseline),
            "seeds": list(self.seeds),
            "resources": self.resources.model_dump(),
            "retries": self.retries,
        } | self._optional_spec()

    def _optional_spec(self) -> dict[str, Any]:
        """The part of `spec` that sweeps without these keys lack."""
        blocks = {"search": self.search, "early_stopping": self.early_stopping}
        spec: dict[str, Any] = {key: block.model_dump() for key, block in blocks.items() if block is not None}
        spec |= {"yardstick": YARDSTICK} if self.yardstick else {}
        return spec | {"keep": self.keep} if self.keep else spec


def _plain_axis(axis: Axis) -> dict[str, Any]:
    if isinstance(axis, RandomAxis):
        kinds = {path: [one.kind, one.bounds] for path, one in axis.distributions.items()}
        return {"count": axis.count, "seed": axis.seed, "distributions": kinds}
    return {"rows": [dict(row) for row in axis.rows]}


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
    """Load the sweep of a YAML file; see `make_sweep`.

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
    """Make the sweep that a document describes. Reads the files of its bases, and no other files.

    Args:
        document: the keys of a sweep file.
        source: its name in messages.
        folder: the folder that its relative paths start from.
        sets: the `knob=value` of `--set`; they win over all settings, but cannot set a varied knob.
            `resources.KEY=value` sets a key of the document's resources.
        base: `--base`: a base's name or a YAML file's path, in place of the document's base.
        data_root: `--data`. Without it the document's `data` counts, then MOLEFLOW_DATA.
        environment: the environment variables to look MOLEFLOW_DATA up in; None = look nowhere.

    Raises:
        InvalidInput: any mistake that shows before the variants are resolved.

    """
    keys = parse_sweep_file(document, source)
    all_axes = _axes(keys, source)
    root, data_source = _data_root(keys, source, folder, data_root, environment or {})
    if keys.without_data.tasks is not None:
        on_embedded = _with_tasks(all_axes, keys.without_data.tasks, f"{source}: without_data.tasks")
        all_axes = on_embedded if root is None else all_axes
    axis_of = {path: axis for axis in all_axes for path in axis.knobs}
    settings, resources = set_resources(sets, keys.resources)
    version, overrides = _version_and_overrides(keys, settings, axis_of, source)
    choice = choose_base(keys, source, folder, base, root)
    layers = _layers(keys, choice.base, version, overrides, axis_of, source)
    when, exclude = _conditions(keys, layers, axis_of, source)
    return Sweep(
        name=choice.name,
        question=keys.question.strip(),
        source=source,
        base=choice.base.label,
        version=version,
        layers=layers,
        axes=tuple(all_axes),
        when=when,
        exclude=exclude,
        baseline=_baseline(keys.report.baseline, axis_of, f"{source}: report.baseline", keys.search is not None),
        seeds=choice.seeds,
        resources=resources,
        retries=keys.retries,
        data_root=root,
        data_source=data_source,
        note=choice.note,
        search=keys.search,
        final_seeds=final_seeds_of(keys, choice.seeds, source),
        early_stopping=keys.early_stopping,
        yardstick=keys.yardstick is not None,
        keep=keys.keep,
    )


def _with_tasks(axes: Sequence[Axis], tasks: list[Any], source: str) -> list[Axis]:
    """Return the axes with other values of `data.tasks`.

    Raises:
        InvalidInput: `data.tasks` is no axis under `grid`, or a value is impossible.

    """
    if not any(axis.knobs == (_TASKS,) for axis in axes):
        raise InvalidInput(
            f"{source}: {_TASKS} is no axis under grid; give the tasks of the embedded images in the base of without_data"
        )
    (replaced,) = grid_axes({_TASKS: tasks}, source)
    return [replaced if axis.knobs == (_TASKS,) else axis for axis in axes]


def _version_and_overrides(
    keys: SweepFile, sets: Sequence[str], axis_of: Mapping[str, Axis], source: str
) -> tuple[str | None, dict[str, Any]]:
    """Return the version of variants that name none, and the other settings of `--set`."""
    refused = {path: f"{path} is an axis of this sweep; edit the axis in {source}" for path in axis_of}
    overrides = parse_sets(sets, {"seed": f"a sweep's seeds are set by `seeds` in {source}", **refused})
    version = overrides.pop("version", keys.version)
    if version is None and not ("version" in axis_of and axis_of["version"].always_has("version")):
        raise InvalidInput(f"{source}: version: is missing; give a version's name, or make it an axis")
    return version, overrides


def _layers(
    keys: SweepFile,
    base: Base,
    version: str | None,
    overrides: Mapping[str, Any],
    axis_of: Mapping[str, Axis],
    source: str,
) -> dict[str, tuple[Layer, ...]]:
    """Return the settings under the factors of each version, with the yardstick checked."""
    under_base = search_layers(keys, source)
    versions = dict.fromkeys([] if version is None else [version])
    if "version" in axis_of:
        versions |= dict.fromkeys(axis_of["version"].values("version") or ())
    # Later layers win: version < search < base < --set. The factors come on top in the resolver.
    layers = {v: (version_layer(v, source), *under_base, *base.layers(v), Layer("--set", overrides)) for v in versions}
    _check_yardstick(keys, layers, axis_of, source)
    return layers


def _conditions(
    keys: SweepFile, layers: Mapping[str, tuple[Layer, ...]], axis_of: Mapping[str, Axis], source: str
) -> tuple[dict[str, Condition], tuple[Condition, ...]]:
    """Return `when`, each condition after those that it depends on, and `exclude`; both checked."""
    when = {
        _varied_knob(name, axis_of, f"{source}: when"): parse_condition(given, f"{source}: when.{name}")
        for name, given in keys.when.items()
    }
    exclude = tuple(
        _exclusion(entry, axis_of, f"{source}: exclude, entry {n}") for n, entry in enumerate(keys.exclude, start=1)
    )
    check_conditions(layers, axis_of, when, exclude, source)
    return _sorted_by_dependency(when, f"{source}: when"), exclude


def _check_yardstick(
    keys: SweepFile, layers: Mapping[str, Sequence[Layer]], axis_of: Mapping[str, Axis], source: str
) -> None:
    """Check that a memory bank is asked for by `yardstick` alone, and competes with no trial."""
    given = {path for of_version in layers.values() for layer in of_version for path in flatten_layer(layer)}
    if _BANK in given or _BANK in axis_of:
        raise InvalidInput(f"{source}: {_BANK}: is no setting of a version; write `yardstick: {YARDSTICK}` instead")
    other = "search" if keys.search is not None else "early_stopping" if keys.early_stopping is not None else ""
    if keys.yardstick is not None and other:
        raise InvalidInput(
            f"{source}: yardstick: given with {other}, which chooses among all trials; keep one of them, and measure "
            "the yardstick in a sweep without it"
        )


def _data_root(
    keys: SweepFile, source: str, folder: Path, option: Path | None, environment: Mapping[str, str]
) -> tuple[Path | None, str]:
    """Return the data root, and the option, key or variable that gives it."""
    if option is not None:
        return option, "--data"
    if keys.data is not None:
        return folder / expand_path(keys.data, f"{source}: data"), f"{source}: data"
    given = environment.get(DATA_VARIABLE)
    return Path(given).expanduser() if given else None, DATA_VARIABLE


def _axes(keys: SweepFile, source: str) -> list[Axis]:
    by_key: dict[str, list[Axis]] = {
        "grid": axes.grid_axes(keys.grid, f"{source}: grid"),
        "zip": axes.zipped(keys.zip, f"{source}: zip"),
        "list": axes.listed(keys.list, f"{source}: list"),
    }
    if keys.random is not None:
        drawn = keys.random
        by_key["random"] = [axes.random_axis(drawn.count, drawn.seed, drawn.knobs, f"{source}: random.knobs")]
    if keys.search is not None:
        given = [key for key, found in by_key.items() if found]
        if given:
            raise InvalidInput(f"{source}: search: takes the place of axes, but there is {given[0]}; keep one of them")
        search = keys.search
        by_key["search"] = [axes.random_axis(SEARCH_SAMPLE, search.seed, search.space, f"{source}: search.space")]
    key_of: dict[str, str] = {}
    for key, found in by_key.items():
        for path in (path for axis in found for path in axis.knobs):
            if path in key_of:
                both = f"{key_of[path]} and {key}"
                raise InvalidInput(f"{source}: two axes over one knob: {path} is in {both}; keep one of them")
            key_of[path] = key
    return [axis for found in by_key.values() for axis in found]


def _varied_knob(name: str, axis_of: Mapping[str, Axis], source: str) -> str:
    """Return the dotted path of a knob that an axis varies."""
    path = knob(str(name), source)
    if path not in axis_of:
        raise InvalidInput(f"{source}: {path} is not an axis of this sweep; its axes: {', '.join(axis_of) or 'none'}")
    return path


def _sorted_by_dependency(when: Mapping[str, Condition], source: str) -> dict[str, Condition]:
    """Sort the conditions, so that each comes after those of the knobs that it looks at."""
    order = TopologicalSorter(
        {path: [other for other in condition if other in when] for path, condition in when.items()}
    )
    try:
        return {path: when[path] for path in order.static_order()}
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InvalidInput(f"{source}: the axes {circle} depend on one another in a circle") from None


def _exclusion(entry: object, axis_of: Mapping[str, Axis], source: str) -> Condition:
    condition = parse_condition(entry, source)
    if not any(path in axis_of for path in condition):
        raise InvalidInput(
            f"{source}: none of {', '.join(condition)} is an axis, so this leaves out every variant or none; "
            f"the axes: {', '.join(axis_of) or 'none'}"
        )
    return condition


def _baseline(given: Mapping[str, Any], axis_of: Mapping[str, Axis], source: str, searched: bool) -> dict[str, Any]:
    baseline: dict[str, Any] = {}
    for name, value in flatten_layer(Layer(source, given)).items():
        path = _varied_knob(name, axis_of, source)
        baseline[path] = check_value(path, value, source)
        axis = axis_of[path]
        if searched and isinstance(axis, RandomAxis) and axis.distributions[path].kind in ("uniform", "loguniform"):
            raise InvalidInput(
                f"{source}: a search draws {path} from a range, so that no configuration has exactly "
                f"{spell(baseline[path])}; make it a choice in search.space, or leave report.baseline out"
            )
        values = axis.values(path)
        # An entry of `list` without the knob has the base's value, which is known once variants
        # resolve; expand() then checks the baseline.
        if values is not None and axis.always_has(path) and baseline[path] not in values:
            spelled = [spell(v) for v in values]
            hint = hint_at(spell(baseline[path]), spelled)
            raise InvalidInput(
                f"{source}: {path}: given {yaml_text(value)}, but the axis has: {', '.join(spelled)}{hint}"
            )
    return baseline
