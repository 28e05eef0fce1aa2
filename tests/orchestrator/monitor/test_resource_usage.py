"""Memory from /proc, GPUs from nvidia-smi's own words."""

from __future__ import annotations

import os
import subprocess
import sys

from orchestrator.monitor.resource_usage import ResourceMonitor, gpu_words, resident_bytes

EATS = "held = bytearray(60_000_000); print('ready', flush=True); input()"


def test_the_memory_of_a_driver_and_of_what_is_below_it():
    alone = resident_bytes([f"inline-{os.getpid()}"])
    assert alone > 10e6
    before = resident_bytes([f"local-{os.getpid()}-0"])
    words = [sys.executable, "-c", EATS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        grown = resident_bytes([f"local-{os.getpid()}-0", f"local-{os.getpid()}-1"]) - before
        assert 60e6 < grown < 120e6
        child.communicate("\n")
    assert resident_bytes([f"local-{os.getpid()}-0"]) < before + 60e6
    assert resident_bytes(["slurm-7_0", ""]) == 0


def test_a_process_that_is_gone_is_left_out(tmp_path):
    for pid, parent, pages in ((5, 1, 10), (6, 5, 100), (7, 6, 1000), (8, 1, 10_000)):
        (tmp_path / str(pid)).mkdir()
        fields = ["S", str(parent), *["0"] * 19, str(pages)]
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a (b) c) {' '.join(fields)}\n")
    (tmp_path / "9").mkdir()
    (tmp_path / "9/stat").write_text("")
    size = os.sysconf("SC_PAGE_SIZE")
    assert resident_bytes(["local-5-0"], tmp_path) == 1100 * size
    assert resident_bytes(["inline-5"], tmp_path) == 10 * size
    assert resident_bytes(["ray-4711-a"], tmp_path) == 0


def test_gpus_as_nvidia_smi_tells_of_them():
    answer = "0, 34, 3174, 81920\n1, [N/A], [N/A], [N/A]\nnonsense\n"
    assert gpu_words(answer) == ("GPU 0 34% 3.1 of 80 GiB", "GPU 1")
    assert gpu_words("") == ()


def test_it_is_looked_up_every_few_seconds_and_never_waited_for(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 5, 1024, 2048'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    use = ResourceMonitor()
    assert use.look([], 0.0) == ()
    use._asked.wait(timeout=30)
    assert use.look([], 4.0) == ()
    assert use.look([], 5.0) == ("GPU 0 5% 1.0 of 2 GiB",)
    use.close()
    assert use._asked is None
