"""The default cache folder, by precedence, and the refusal of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from orchestrator.host.cache_folder import check_folder, default_cache


def test_the_cache_is_the_variable_s_or_the_user_s(monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/user")
    monkeypatch.setenv("MOLEFLOW_CACHE", "~/cache")
    assert default_cache() == Path("/home/user/cache")
    monkeypatch.setenv("MOLEFLOW_CACHE", "")
    assert default_cache() == Path("/scratch/user/moleflow-sweep")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache() == Path("/home/user/.cache/moleflow-sweep")


def test_a_file_is_no_cache(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="file is a file; give a folder"):
        check_folder(tmp_path / "file")
