"""The file of the embedded log: all of a transaction or nothing of it, and errors in four parts."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from katmatic.errors import LogError
from katmatic.log.sqlite_file import Damage, Explained, Transaction, connect


@pytest.fixture
def names(tmp_path):
    with closing(connect(tmp_path / "names.db")) as connection:
        connection.execute("CREATE TABLE names (name TEXT UNIQUE)")
        yield connection


def put(connection, name):
    connection.execute("INSERT INTO names (name) VALUES (?)", (name,))


def all_of(connection):
    return [name for (name,) in connection.execute("SELECT name FROM names ORDER BY name")]


def names_put(transaction, *names, mistake=None):
    with transaction as connection:
        for name in names:
            put(connection, name)
        if mistake:
            raise mistake


def test_a_transaction_is_made_again_and_again(names, tmp_path):
    transaction = Transaction(names, tmp_path / "names.db")
    for name in "abc":
        names_put(transaction, name)
    assert all_of(names) == ["a", "b", "c"]


@pytest.mark.parametrize("mistake", [ValueError("mine"), KeyboardInterrupt()])
def test_of_a_transaction_that_is_broken_off_nothing_stays(names, tmp_path, mistake):
    transaction = Transaction(names, tmp_path / "names.db")
    with pytest.raises(type(mistake)) as raised:
        names_put(transaction, "a", mistake=mistake)
    assert raised.value is mistake
    assert all_of(names) == []
    names_put(transaction, "b")
    assert all_of(names) == ["b"]


def test_an_error_of_sqlite_is_told_and_nothing_stays(names, tmp_path):
    path = tmp_path / "names.db"
    with pytest.raises(LogError, match=r"a transaction that fails .*UNIQUE") as raised:
        names_put(Transaction(names, path), "a", "a")
    assert raised.value.where == str(path)
    assert isinstance(raised.value.__cause__, sqlite3.IntegrityError)
    assert all_of(names) == []


def test_a_commit_that_fails_is_told_and_nothing_stays(names, tmp_path):
    names.execute("PRAGMA foreign_keys = ON")
    names.execute("CREATE TABLE pairs (name TEXT REFERENCES names (name) DEFERRABLE INITIALLY DEFERRED)")
    names.execute("CREATE TRIGGER pair AFTER INSERT ON names BEGIN INSERT INTO pairs VALUES ('b'); END")
    transaction = Transaction(names, tmp_path / "names.db")
    with pytest.raises(LogError, match="FOREIGN KEY"):
        names_put(transaction, "a")
    assert all_of(names) == []
    names_put(transaction, "a", "b")
    assert all_of(names) == ["a", "b"]


def test_errors_are_told_once_however_deep(tmp_path):
    explained = Explained(tmp_path / "log.db")
    with pytest.raises(LogError, match=r"log.db: batch 7: found bytes") as raised, explained, explained:
        raise Damage("batch 7")
    assert isinstance(raised.value.__cause__, Damage)
    with pytest.raises(LogError, match="expected a file that can be opened"), explained:
        raise FileNotFoundError(2, "no such file")
    with pytest.raises(ValueError, match="another's"), explained:
        raise ValueError("another's")
