"""Secrets of storage URLs reach no file, no message and no command."""

from __future__ import annotations

import sys

import pytest

from orchestrator.host.command_line import arguments, holds_hidden_secret, without_typed_secrets
from orchestrator.host.storage_urls import replace_secrets, url_without_secrets, without_passwords

pytest.importorskip("sqlalchemy", reason="no SQLAlchemy: pip install -e '.[search]'")

URLS = [
    ("postgresql://user:secret@host/study", "postgresql://user:***@host/study"),
    ("mysql+pymysql://:secret@host", "mysql+pymysql://:***@host"),
    ("postgresql://h/db?user=u&password=secret", "postgresql://h/db?user=u"),
    ("postgresql://u:secret@h/db?sslmode=require&sslkey=secret", "postgresql://u:***@h/db?sslmode=require"),
    ("postgresql://h/db?sslpassword=secret&PWD=secret&passwd=secret&token=secret", "postgresql://h/db"),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret", "mssql+pyodbc:///"),
    ("postgresql://u:a secret b@h/db", "postgresql://u:***@h/db"),
    ("postgresql://u:p@secret@h/db", "postgresql://***"),
    ("postgresql://u:p@h1,u2:secret@h2/db", "postgresql://***"),
    ("postgresql:///db?host=u:secret@h1:1", "postgresql:///db"),
    ("postgresql://us/er:secret@h/db", "postgresql://***"),
    ("postgresql://u:secret", "postgresql://***"),
    ("postgresql:///u:secret@h/db", "postgresql://***"),
    ("pg-x://u:secret@h", "pg-x://***"),
    ("sqlite:///study.db", "sqlite:///study.db"),
    ("sqlite:////home/a@b/study.db?timeout=9", "sqlite:////home/a@b/study.db?timeout=9"),
    ("postgresql://user@host/study", "postgresql://user@host/study"),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_a_url_keeps_all_but_its_secrets(url, expected):
    assert url_without_secrets(url) == expected
    assert url_without_secrets(expected) == expected


@pytest.mark.parametrize(("url", "expected"), [*URLS, ("u:secret@h", "***"), ("study.db", "study.db")])
@pytest.mark.parametrize("one_word", [True, False])
def test_the_command_that_is_stored_has_no_secret(monkeypatch, url, expected, one_word):
    words = [f"--storage={url}"] if one_word and "://" in url else ["--storage", url]
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "s.yaml", *words, "--workers", "2"])
    assert "=".join(arguments()[1:-2]).removeprefix("--storage=") == expected
    assert holds_hidden_secret(arguments()) == ("***" in expected and "://" in url)


@pytest.mark.parametrize("url", [url for url, _ in URLS if "secret" in url])
def test_a_message_about_a_typed_url_has_no_secret(monkeypatch, url):
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep", "s.yaml", f"--storage={url}"])
    assert "secret" not in without_typed_secrets(f"--storage: given '{url}', and the server said no to {url}")


def test_a_server_that_repeats_the_password_alone_does_not_print_it():
    url = "postgresql://u:p%40ss@h/db?token=t0k"
    assert replace_secrets('missing "=" after "p@ss" and t0k in settings', [url]) == (
        'missing "=" after "***" and *** in settings'
    )


def test_a_short_password_is_not_replaced_within_words():
    assert replace_secrets("no port on p, or postgresql: p?", ["postgresql://u:p@h/db"]) == (
        "no port on ***, or postgresql: ***?"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b.org: mail", "a@b.org: mail"),
        ("see (https://a.org:80), and", "see (https://a.org:80), and"),
        ("at postgresql://u:secret@h/db: no", "at postgresql://u:***@h/db: no"),
    ],
)
def test_text_around_urls_stays(text, expected):
    assert without_passwords(text) == expected
