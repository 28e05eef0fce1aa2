"""The parts of a store, each looked at once: which are whole, and which attempts count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moleflow import files
from moleflow.errors import InvalidInput
from orchestrator.results import compaction
from orchestrator.results.compaction import CompactedPart, Compaction, LeftOut
from orchestrator.results.parts import (
    Damage,
    DamagedPart,
    Receipt,
    Stamps,
    StoredAttempt,
    check_digests,
    file_stamps,
    read_receipt,
)
from orchestrator.results.schema import ATTEMPTS, FINISHED

EMPTY = "00000000-empty"
"""A part without rows, so that readers find the schema before the first attempt ends."""


class PartIndex:
    """The parts of a results folder, with what is known of each.

    Parts never change, so this object looks at each part once. How closely depends on the
    compacted list:

    - A part in the list with the stamps of today is known to be whole; none of its files is read.
    - A part in the list with other stamps is compared with all its digests.
    - Of a part outside the list only the receipt is read. `check` compares its other files with
      their digests.

    Args:
        folder: the results folder.
        from_parts: compare every file of every part with its digest, and read no compacted list.

    Attributes:
        receipts: {name of a part that is not known to be damaged: its receipt}.
        damaged: {name of a damaged part: its damage}.

    """

    def __init__(self, folder: Path, from_parts: bool = False) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self._from_parts = from_parts
        self.receipts: dict[str, Receipt] = {}
        self.damaged: dict[str, Damage] = {}
        self._stamps: dict[str, Stamps | None] = {}
        self._unchecked: set[str] = set()
        self._counted: dict[str, StoredAttempt] | None = None
        self._stored: dict[tuple[str, int], StoredAttempt] | None = None
        self._list: tuple[tuple[int, int, int] | None, Compaction] = (None, compaction.NOTHING)

    def update(self, fresh: bool = False) -> None:
        """Add the parts that are new since the last look, and drop those that are gone.

        Args:
            fresh: also those that another host stored a moment ago; needs write access.

        Raises:
            InvalidInput: the folder holds no parts.

        """
        if not files.exists(self.parts):
            if files.exists(self.folder / "sweep.json"):
                raise InvalidInput(f"{self.folder}: its results are gone (no folder parts/); run the sweep again")
            raise InvalidInput(f"{self.folder}: no results here (no folder parts/); give the folder that a sweep wrote")
        listed_names = files.names(self.parts / ATTEMPTS, fresh)
        names = {name.removesuffix(".parquet") for name in listed_names if name.endswith(".parquet")} - {EMPTY}
        for gone in (self.receipts.keys() | self.damaged.keys()) - names:
            self.receipts.pop(gone, None)
            self.damaged.pop(gone, None)
            self._unchecked.discard(gone)
            self._forget_attempts()
        new = sorted(names - self.receipts.keys() - self.damaged.keys())
        listed = self.compaction().parts if new else {}
        for name in new:
            self._forget_attempts()
            try:
                self._add(name, listed.get(name))
            except DamagedPart as error:
                self.damaged[name] = error.damage

    def check(self) -> None:
        """Compare the parts outside the compacted list with their digests, each part once."""
        self.update()
        for name in sorted(self._unchecked):
            try:
                check_digests(self.parts, name, self.receipts[name])
            except DamagedPart as error:
                self.set_damaged(name, error.damage)
            self._unchecked.discard(name)

    def set_checked(self) -> None:
        """Take note that every file of every part was compared with its digest."""
        self._unchecked.clear()

    def set_damaged(self, name: str, damage: Damage) -> None:
        """Take note that a part is damaged."""
        del self.receipts[name]
        self._unchecked.discard(name)
        self.damaged[name] = damage
        self._forget_attempts()

    def look_again(self, name: str) -> None:
        """Add a damaged part after all if it is whole now.

        Raises:
            DamagedPart: it is not.

        """
        self._add_checked(name, file_stamps(self.parts, name))
        del self.damaged[name]

    def compaction(self) -> Compaction:
        """The list of the compacted tables, read again after it was replaced."""
        if self._from_parts:
            return compaction.NOTHING
        status = files.stat_of(compaction.list_file(self.folder))
        if status is None:
            return compaction.NOTHING
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if stamp != self._list[0]:
            self._list = stamp, compaction.read_list(self.folder)
        return self._list[1]

    def stored(self) -> dict[tuple[str, int], StoredAttempt]:
        """Each stored attempt once, by trial id and number.

        Earlier code could store two rows of an attempt whose worker was taken for dead and went on.
        The one that counts for its trial is kept, then a finished one, then the earlier one.
        """
        if self._stored is None:
            counted = self.counted()
            rows = [a for _, receipt in sorted(self.receipts.items(), reverse=True) for a in receipt.attempts]
            rows.sort(key=lambda a: (counted.get(a.trial_id) == a, a.status == FINISHED))
            self._stored = {(a.trial_id, a.attempt): a for a in rows}
        return self._stored

    def counted(self) -> dict[str, StoredAttempt]:
        """The attempt that counts of each finished trial, by trial id.

        Of several the lowest number counts. If different code made them, only those of the code of
        the most recently started one are considered.
        """
        if self._counted is None:
            trials: dict[str, list[StoredAttempt]] = {}
            for attempt in (a for receipt in self.receipts.values() for a in receipt.attempts if a.status == FINISHED):
                trials.setdefault(attempt.trial_id, []).append(attempt)
            self._counted = {trial: _one_that_counts(attempts) for trial, attempts in trials.items()}
        return self._counted

    def left_out(self) -> dict[str, LeftOut]:
        """The attempts of each part that do not count; the parts in order."""
        counted, stored = self.counted(), self.stored()
        return {
            name: tuple(
                (a.trial_id, a.attempt)
                for a in receipt.attempts
                if a != (counted[a.trial_id] if a.status == FINISHED else stored[a.trial_id, a.attempt])
            )
            for name, receipt in sorted(self.receipts.items())
        }

    def listing(self) -> dict[str, CompactedPart]:
        """The parts as a new compacted list would have them."""
        return {
            name: CompactedPart(self._stamps[name] or (), self.receipts[name], left_out)
            for name, left_out in self.left_out().items()
        }

    def _forget_attempts(self) -> None:
        self._counted = self._stored = None

    def _add(self, name: str, listed: CompactedPart | None) -> None:
        """Look at a part for the first time; `listed` is what the compacted list has of it.

        Raises:
            DamagedPart: it is damaged.

        """
        # The stamps come first: if files change while they are read, the listed stamps do not fit.
        stamps = file_stamps(self.parts, name)
        if listed is not None and listed.stamps == stamps:
            self.receipts[name], self._stamps[name] = listed.receipt, stamps
        elif listed is not None or stamps is None or self._from_parts:
            self._add_checked(name, stamps)
        else:
            self.receipts[name], self._stamps[name] = read_receipt(self.parts, name), stamps
            self._unchecked.add(name)

    def _add_checked(self, name: str, stamps: Stamps | None) -> None:
        """Add a part once all its files were compared with their digests.

        Raises:
            DamagedPart: one of them is missing or has changed.

        """
        receipt = read_receipt(self.parts, name)
        check_digests(self.parts, name, receipt)
        self.receipts[name], self._stamps[name] = receipt, stamps
        self._forget_attempts()


def _one_that_counts(attempts: Sequence[StoredAttempt]) -> StoredAttempt:
    code = max(attempts, key=lambda a: a.started_at).code_digest
    candidates = [a for a in attempts if a.code_digest == code]
    return min(candidates, key=lambda a: (a.attempt, a.started_at, a.part))
