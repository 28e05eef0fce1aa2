"""Provenance: the commit of a checkout, uncommitted changes in its packages, and no passwords."""

from __future__ import annotations

import subprocess
from importlib.metadata import version

import pytest

from orchestrator.host import provenance
from orchestrator.host.provenance import checkout_state, package_versions


@pytest.fixture
def checkout(tmp_path):
    """A git repository with both packages and a page, all committed."""
    for name in ("moleflow/a.py", "orchestrator/host/b.py", "docs/page.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("one\n")
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "First")):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    return tmp_path


def test_the_commit_of_a_checkout_without_changes(checkout):
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert checkout_state(checkout) == (head.stdout.strip(), False)


@pytest.mark.parametrize("name", ["moleflow/a.py", "orchestrator/host/b.py", "orchestrator/new.py"])
def test_a_change_in_a_package_is_reported(checkout, name):
    (checkout / name).write_text("two\n")
    assert checkout_state(checkout)[1] is True


def test_a_change_outside_the_packages_is_not_reported(checkout):
    (checkout / "docs/page.md").write_text("two\n")
    assert checkout_state(checkout)[1] is False


def test_a_folder_inside_another_repository_is_no_checkout(checkout):
    installed = checkout / "site-packages"
    (installed / "orchestrator").mkdir(parents=True)
    assert checkout_state(installed) == (None, None)


def test_without_git_nothing_is_known(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout))
    assert checkout_state(checkout) == (None, None)


def test_changes_that_git_does_not_tell_are_unknown(checkout, monkeypatch):
    real = provenance._git
    monkeypatch.setattr(provenance, "_git", lambda root, *words: None if "status" in words else real(root, *words))
    commit, changed = checkout_state(checkout)
    assert (len(commit), changed) == (40, None)


def test_the_running_code_is_described_from_the_root_of_its_checkout():
    assert (provenance.ROOT / "orchestrator" / "host" / "provenance.py").samefile(provenance.__file__)
    assert provenance.git_state() == checkout_state(provenance.ROOT)
    facts = provenance.provenance_facts()
    assert set(facts) == {"git_commit", "git_dirty", "packages"}
    assert (facts["git_commit"], facts["git_dirty"]) == provenance.git_state()


def test_versions_are_those_of_the_installed_packages(monkeypatch):
    assert package_versions()["numpy"] == version("numpy")
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    assert package_versions.__wrapped__() == {"numpy": version("numpy"), "no-such-package": "not installed"}
