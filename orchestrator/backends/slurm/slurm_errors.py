"""Error messages of SLURM's commands in one line, with the reason that a user can act on."""

from __future__ import annotations

import re

_REASONS = (
    (
        "Munge encode failed|Munge decode failed|Protocol authentication error|Invalid authentication credential",
        "munge, which authenticates users, does not answer on this machine; take another login node, or ask its "
        "administrator to start munged",
    ),
    (
        "Unable to contact slurm controller",
        "the controller is down or cannot be reached; `scontrol ping` shows when it is back",
    ),
    (
        "I/O error writing script/environment to file",
        "the disk of SLURM's controller is full; its administrator has to free some of it",
    ),
    (
        "Could not establish a configuration source",
        "SLURM is installed here but not configured; take a login node, or set SLURM_CONF",
    ),
)
_PREFIX = re.compile(r"^\w+: (error|fatal): ")


def explain(message: str) -> str:
    """The message of a SLURM command in one line, without repetitions.

    SLURM's own last line comes first, so that it can be looked up. A reason follows if the message
    is one that many users meet.

    Example:
        `squeue: error: a`, then `slurm_load_jobs error: Unable to contact slurm controller` becomes
        `slurm_load_jobs error: Unable to contact slurm controller: the controller is down or ...`.

    """
    lines = list(dict.fromkeys(_PREFIX.sub("", line.strip()) for line in message.splitlines() if line.strip()))
    for pattern, reason in _REASONS:
        if re.search(pattern, message):
            return f"{lines[-1]}: {reason}"
    return "; ".join(" ".join(line.split()) for line in lines)
