"""Messages of SLURM 22.05, as its commands printed them on the development cluster."""

from __future__ import annotations

import pytest

from orchestrator.backends.slurm.slurm_errors import explain

MUNGE = """sbatch: error: If munged is up, restart with --num-threads=10
sbatch: error: Munge encode failed: Failed to access "/run/munge.sock": No such file or directory (Did you start munged?)
sbatch: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error
sbatch: error: Batch job submission failed: Protocol authentication error
"""
NO_CONFIGURATION = """scontrol: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
scontrol: error: fetch_config: DNS SRV lookup failed
scontrol: error: _establish_config_source: failed to fetch config
scontrol: fatal: Could not establish a configuration source
"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            MUNGE,
            "Batch job submission failed: Protocol authentication error: munge, which authenticates users, does not answer "
            "on this machine; take another login node, or ask its administrator to start munged",
        ),
        (
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure): the controller is down or cannot "
            "be reached; `scontrol ping` shows when it is back",
        ),
        (
            "sbatch: error: Batch job submission failed: I/O error writing script/environment to file",
            "Batch job submission failed: I/O error writing script/environment to file: the disk of SLURM's controller is "
            "full; its administrator has to free some of it",
        ),
        (
            NO_CONFIGURATION,
            "Could not establish a configuration source: SLURM is installed here but not configured; take a login node, or "
            "set SLURM_CONF",
        ),
        (
            "sbatch: error: invalid partition specified: nowhere\n"
            "sbatch: error: invalid partition specified: nowhere\n"
            "sbatch: error: Batch job submission failed:   Invalid partition name specified\n",
            "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified",
        ),
        ("  \n", ""),
    ],
)
def test_a_message_becomes_one_line_with_its_reason(message: str, line: str) -> None:
    assert explain(message) == line
