"""Key files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from peer import keys
from peer.errors import ConfigError

PAIRS = {i: (f"{i}" * 40, "abcde-.:+="[i] * 40) for i in range(10)}


def refused(folder: Path, peer: int = 0, n_agents: int = 3) -> str:
    with pytest.raises(ConfigError) as refusal:
        keys.read(folder, peer, n_agents)
    assert refusal.value.key == "transport.keys"
    assert "\n" not in str(refusal.value)
    assert str(folder) in str(refusal.value)
    return str(refusal.value)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = keys.write(tmp_path / "keys", PAIRS)
    assert sorted(written) == sorted((tmp_path / "keys").iterdir())
    for peer in PAIRS:
        assert keys.read(tmp_path / "keys", peer, 10) == (
            PAIRS[peer][1],
            {i: public for i, (public, _) in PAIRS.items()},
        )
    assert list(keys.read(tmp_path / "keys", 0, 3)[1]) == [0, 1, 2], "no more than there are peers"


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    modes = [stat.S_IMODE((tmp_path / keys.secret_name(peer)).stat().st_mode) for peer in PAIRS]
    assert modes == [0o600] * len(PAIRS)
    public = (tmp_path / keys.PUBLIC_NAME).read_text()
    assert not any(secret in public for _, secret in PAIRS.values())


@pytest.mark.parametrize("there", [keys.PUBLIC_NAME, keys.secret_name(2)])
def test_nothing_is_replaced(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(ConfigError, match="without keys, found"):
        keys.write(tmp_path, PAIRS)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_missing_files_come_with_the_command_that_makes_them(tmp_path: Path) -> None:
    assert "`peer keys DIR --peers 3`" in refused(tmp_path)
    keys.write(tmp_path, PAIRS)
    (tmp_path / keys.PUBLIC_NAME).unlink()
    assert keys.PUBLIC_NAME in refused(tmp_path)


def test_a_host_needs_no_secret_but_its_own(tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    for peer in range(1, 10):
        (tmp_path / keys.secret_name(peer)).unlink()
    assert keys.read(tmp_path, 0, 10)[0] == PAIRS[0][1]
    refused(tmp_path, peer=1)


@pytest.mark.parametrize(
    "secret", ["", "short", "a" * 39, "a" * 41, "a" * 39 + "~", "a" * 20 + "\n" + "a" * 19, "ä" * 40]
)
def test_secrets_that_are_no_key(secret: str, tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    (tmp_path / keys.secret_name(0)).write_text(secret)
    text = refused(tmp_path)
    assert "40 characters" in text
    assert not secret or secret not in text.replace(str(tmp_path), ""), "a secret is not shown, not even a wrong one"


@pytest.mark.parametrize(
    ("public", "problem"),
    [
        ("0 = ", "expected TOML"),
        (b"\xff\xfe", "expected TOML"),
        ("", "a key for peer 0"),
        (f'0 = "{"a" * 40}"\n1 = "{"b" * 40}"', "a key for peer 2"),
        (f'0 = "{"a" * 40}"\n1 = 5\n2 = "{"b" * 40}"', "a key for peer 1"),
        (f'0 = "{"a" * 40}"\n1 = "{"b" * 39}"\n2 = "{"b" * 40}"', "a key for peer 1"),
        (f'"²" = "{"a" * 40}"', "a key for peer 0"),
    ],
)
def test_public_lists_that_are_none(public: str | bytes, problem: str, tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    (tmp_path / keys.PUBLIC_NAME).write_bytes(public if isinstance(public, bytes) else public.encode())
    assert problem in refused(tmp_path)
