"""Verification of a report: made again from its Parquet files, and every difference explained."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moleflow import files
from moleflow.errors import InvalidInput, counted
from orchestrator.reports.lock import Lock, Recipe, WrittenReport, read_lock
from orchestrator.reports.tables import Report
from orchestrator.results.store import ResultStore

_SHOWN = 20
"""Differences that are named one by one; the rest are counted."""
_WIDEST = 300
"""Characters of a differing line that are shown."""
_MARKS = re.compile(r"( \(n=\d+\)| \(stale\)| †)+$")


@dataclass(frozen=True)
class Verification:
    """The result of comparing a report with the one that its Parquet files give today.

    Attributes:
        trials: number of finished trials.
        differences: each place that differs, with both contents.
        reasons: the causes of differences.
        remarks: what a reader should know even if nothing differs.
        damaged: parts that cannot be read.
        left_out: trials of the plan that are not in the report.
    """

    name: str
    trials: int
    differences: tuple[str, ...]
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def equal(self) -> bool:
        """True if every byte is the same."""
        return not self.differences

    def lines(self) -> list[str]:
        """Return the result in words."""
        remarks = [f"note: {remark}" for remark in self.remarks]
        if self.equal:
            trials = counted(self.trials, "finished trial")
            equal = f"{self.name}: equal, byte for byte, to what the Parquet files in its folder give ({trials})"
            left_out = f"{counted(self.left_out, 'trial')} not in the report"
            damage = [f"damaged: {', '.join(self.damaged)}; {left_out}"] if self.damaged else []
            return [equal, *damage, *remarks]
        more = len(self.differences) - _SHOWN
        return [
            f"{self.name}: differs from what the Parquet files in its folder give",
            *(f"  {difference}" for difference in self.differences[:_SHOWN]),
            *([f"  and {more:,} more"] if more > 0 else []),
            *(f"why: {reason}" for reason in self.reasons),
            *remarks,
        ]


def check_report(path: Path, remake: Callable[[ResultStore, Recipe], Report], code: str) -> Verification:
    """Make a report again from the store in its folder, and compare.

    Args:
        path: the report, in Markdown.
        remake: makes a report from the recipe of a lock.
        code: digest of today's `moleflow`.

    Raises:
        InvalidInput: there is no report, it has no intact lock, or its folder has no results.
    """
    text, written = _read(path)
    store = ResultStore(path.parent, from_parts=True)
    report = remake(store, written.lock.recipe)
    now = report.lock
    assert now is not None, "a report over a store carries a lock"
    body = report.body()
    # Other report code may use other columns of the same rows. Their digests then say nothing, and
    # the text alone decides: the expected lock takes over all that today's code would write anew.
    same_code = written.lock.report_code == now.report_code
    recipe = replace(written.lock.recipe, published=now.recipe.published)
    trials = now.trials if same_code else written.lock.trials
    lock = Lock(recipe, trials, written.lock.report_code, written.lock.made_with)
    expected = body + lock.comment(body)
    remarks = _remarks(written, now, code)
    if text == expected:
        damaged = tuple(damage.path.relative_to(store.folder).as_posix() for damage in store.damaged)
        left_out = len(set(recipe.selection or ()) - now.trials.keys())
        return Verification(path.name, len(now.trials), (), (), remarks, damaged, left_out)
    differences = _differences(written.body, body) or _line_differences(text, expected, "line")
    reasons = [*_reasons(written, now, same_code, store), *_input_reasons(written.lock, now, code)]
    unexplained = "the lock itself was changed after the report was made"
    return Verification(path.name, len(now.trials), tuple(differences), tuple(reasons or [unexplained]), remarks)


def _read(path: Path) -> tuple[str, WrittenReport]:
    try:
        text = files.read(path).decode("utf-8")
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file; give a report, such as results/NAME/report.md") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read as text ({error}); give a report, such as report.md") from None
    return text, read_lock(text, str(path))


def _reasons(written: WrittenReport, now: Lock, same_code: bool, store: ResultStore) -> list[str]:
    """Explain a difference by the text, the trials, and the code that made reports and rows."""
    reasons = ["the text was changed after the report was made: it is not the one that its lock names"] * written.edited
    then = written.lock.trials
    reasons += [
        f"trial {trial} is in the report, but not finished in the Parquet" for trial in sorted(then.keys() - now.trials)
    ]
    reasons += [f"trial {trial} has finished since the report was made" for trial in sorted(now.trials.keys() - then)]
    if same_code:
        changed = sorted(t for t in then.keys() & now.trials.keys() if then[t] != now.trials[t])
        reasons += [f"trial {trial}: its stored rows changed since the report was made" for trial in changed]
        reasons += _other_code(store, changed, written.lock.recipe.code)
    else:
        reasons.append(
            f"other code made the report ({written.lock.report_code[:12]}) than makes reports today "
            f"({now.report_code[:12]})"
        )
    for damage in store.damaged:
        where = damage.path.relative_to(store.folder).as_posix()
        reasons.append(f"damaged part: {where}: {damage.reason}; its trials count as not finished")
    return reasons


def _other_code(store: ResultStore, trials: Sequence[str], code: str | None) -> list[str]:
    made = {trial: attempt.code_digest for trial, attempt in store.finished().items() if trial in trials}
    others = sorted({digest[:12] for digest in made.values() if digest != code})
    return [
        f"other code ({', '.join(others)}) than that of the report ({(code or 'none')[:12]}) made these rows"
    ] * bool(others)


def _input_reasons(then: Lock, now: Lock, code: str) -> list[str]:
    """Explain a difference by published rows, detector code, packages, and version files."""
    reasons = []
    if then.recipe.published != now.recipe.published:
        reasons.append("the published rows changed since the report was made")
    if then.recipe.code not in (None, code):
        reasons.append(f"the detector's code was {str(then.recipe.code)[:12]}, and is {code[:12]} today")
    for name, held in then.made_with.items():
        if held != (today := now.made_with.get(name, "not known")):
            reasons.append(f"{name}: {held} when the report was made, {today} today")
    return reasons


def _remarks(written: WrittenReport, now: Lock, code: str) -> tuple[str, ...]:
    remarks = []
    if written.lock.recipe.code not in (None, code):
        then = str(written.lock.recipe.code)[:12]
        remarks.append(f"the report calls stale what differs from code {then}; today's is {code[:12]}")
    if written.lock.report_code != now.report_code and not written.edited:
        remarks.append("the code that makes reports has changed since, so the digests of rows cannot be compared")
    return tuple(remarks)


_Sections = dict[str, tuple[list[list[str]], list[str]]]
"""{title: (the rows of its table, its other lines)}."""


def _differences(written: str, made: str) -> list[str]:
    """List every cell, and every line outside tables, in which two reports differ."""
    theirs, ours = _sections(written), _sections(made)
    found = [f"section '{title}': only in the report" for title in theirs if title not in ours]
    found += [f"section '{title}': missing in the report" for title in ours if title not in theirs]
    for title in theirs:
        if title in ours:
            found += _cell_differences(title, theirs[title][0], ours[title][0])
            found += _line_differences(
                "\n".join(theirs[title][1]), "\n".join(ours[title][1]), f"section '{title}', line"
            )
    return found


def _sections(markdown: str) -> _Sections:
    sections: _Sections = {}
    title = ""
    for line in markdown.splitlines():
        if re.match("#{1,2} ", line):
            title = line.lstrip("# ")
            # Equal titles must not merge two tables into one.
            while title in sections:
                title += " (again)"
        rows, others = sections.setdefault(title, ([], []))
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        else:
            others.append(line)
    return sections


def _cell_differences(title: str, theirs: Sequence[Sequence[str]], ours: Sequence[Sequence[str]]) -> list[str]:
    """List the columns, rows and cells in which a table differs from the one made again."""
    if not theirs or not ours:
        return [f"table '{title}': {'missing in' if ours else 'only in'} the report"] * bool(theirs or ours)
    head, own_head = theirs[0], ours[0]
    same = _same_columns(head, own_head)
    found = [f"table '{title}': column '{name}' only in the report" for k, name in enumerate(head) if k not in same]
    missing = [name for k, name in enumerate(own_head) if k not in same.values()]
    found += [f"table '{title}': column '{name}' missing in the report" for name in missing]
    renamed = [(head[k], own_head[of]) for k, of in same.items() if head[k] != own_head[of]]
    found += [f"table '{title}': column '{has}' of the report is '{gives}' by the Parquet" for has, gives in renamed]
    rows, own_rows = ({row[0]: row for row in of[2:] if row} for of in (theirs, ours))
    found += [f"table '{title}': row '{name}' only in the report" for name in rows if name not in own_rows]
    found += [f"table '{title}': row '{name}' missing in the report" for name in own_rows if name not in rows]
    for name in [name for name in rows if name in own_rows]:
        for k, of in same.items():
            has, gives = _cell(rows[name], k), _cell(own_rows[name], of)
            if has != gives:
                place = f"table '{title}', row '{name}', column '{head[k]}'"
                found.append(f"{place}: the report has {has or 'nothing'}, the Parquet gives {gives or 'nothing'}")
    return found


def _cell(row: Sequence[str], column: int) -> str:
    return row[column] if column < len(row) else ""


def _same_columns(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, int]:
    """Pair columns by name, and the rest by name without the marks of n, stale and confounds."""
    same = {k: ours.index(name) for k, name in enumerate(theirs) if name in ours}
    bare = [_MARKS.sub("", name) for name in ours]
    for k, name in enumerate(theirs):
        left = [of for of, other in enumerate(bare) if other == _MARKS.sub("", name) and of not in same.values()]
        if k not in same and len(left) == 1:
            same[k] = left[0]
    return same


def _line_differences(written: str, made: str, place: str) -> list[str]:
    found = []
    theirs, ours = written.splitlines(keepends=True), made.splitlines(keepends=True)
    for kind, a, b, c, d in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        if kind != "equal":
            has, gives = ("".join(lines).rstrip("\r\n") for lines in (theirs[a:b], ours[c:d]))
            if has == gives:  # Only line ends differ.
                has, gives = repr("".join(theirs[a:b])), repr("".join(ours[c:d]))
            has, gives = (f"{of[:_WIDEST]} ..." if len(of) > _WIDEST else of or "nothing" for of in (has, gives))
            found.append(f"{place} {a + 1}: the report has {has}, the Parquet gives {gives}")
    return found
