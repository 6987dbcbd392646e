"""Key files."""

from __future__ import annotations

import stat
from collections.abc import Callable
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
    assert list(keys.read(tmp_path / "keys", 0, 3, newcomers=True)[1]) == list(PAIRS), "whoever may come in"


def test_a_newcomer_has_to_be_on_the_list(tmp_path: Path) -> None:
    keys.write(tmp_path, {i: PAIRS[i] for i in range(3)})
    (tmp_path / keys.secret_name(3)).write_text(PAIRS[3][1])
    with pytest.raises(ConfigError, match="expected a key for peer 3, found none"):
        keys.read(tmp_path, 3, 3, newcomers=True)


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
    "secret",
    [
        *("", "short", "a" * 39, "a" * 41, "a" * 39 + "~", "a" * 20 + "\n" + "a" * 19, "ä" * 40),
        *("\udcff\udcfe" + "a\0" * 40, "\udce4" * 40),
    ],
)
def test_secrets_that_are_no_key(secret: str, tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    (tmp_path / keys.secret_name(0)).write_bytes(secret.encode(errors="surrogateescape"))  # of the last two no text
    text = refused(tmp_path)
    assert "40 characters" in text
    (tmp_path / keys.PUBLIC_NAME).unlink()
    with pytest.raises(ConfigError, match=r"peer-000\.secret: expected a key of 40 characters"):
        complete(str(tmp_path), 3)
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


SECRETS = {secret: public for public, secret in PAIRS.values()}


def complete(pattern: str, n_agents: int, new_pair: Callable[[], tuple[str, str]] | None = None) -> None:
    made = iter(PAIRS.values())
    keys.complete(pattern, n_agents, new_pair or (lambda: next(made)), SECRETS.__getitem__)


def test_a_folder_for_each_peer_holds_its_own_secret_only(tmp_path: Path) -> None:
    pattern = str(tmp_path / "{id}")
    complete(pattern, 3)
    for peer in range(3):
        folder = keys.folder_of(pattern, peer)
        assert sorted(path.name for path in folder.iterdir()) == [keys.secret_name(peer), keys.PUBLIC_NAME]
        assert keys.read(folder, peer, 3) == (PAIRS[peer][1], {i: PAIRS[i][0] for i in range(3)})
        assert stat.S_IMODE((folder / keys.secret_name(peer)).stat().st_mode) == 0o600
    complete(pattern, 3, lambda: pytest.fail("they are all there"))


def test_one_folder_for_all_is_completed_too(tmp_path: Path) -> None:
    complete(str(tmp_path), 3)
    assert [keys.read(tmp_path, peer, 3)[0] for peer in range(3)] == [PAIRS[peer][1] for peer in range(3)]


@pytest.mark.parametrize("left", [[], [0], [0, 1, 2]])
def test_a_killed_attempt_is_completed_with_the_secrets_that_it_left(left: list[int], tmp_path: Path) -> None:
    pattern = str(tmp_path / "{id}")
    for peer in left:
        keys.folder_of(pattern, peer).mkdir()
        (keys.folder_of(pattern, peer) / keys.secret_name(peer)).write_text(PAIRS[9 - peer][1] + "\n")
    complete(pattern, 3)
    found = [keys.read(keys.folder_of(pattern, peer), peer, 3) for peer in range(3)]
    assert [found[peer][0] for peer in left] == [PAIRS[9 - peer][1] for peer in left]
    assert found[0][1] == found[1][1] == found[2][1] == {peer: SECRETS[found[peer][0]] for peer in range(3)}
    (tmp_path / "1" / keys.PUBLIC_NAME).unlink()  # killed between two lists
    complete(pattern, 3)
    assert keys.read(tmp_path / "1", 1, 3) == found[1]


def test_a_secret_that_is_gone_is_not_replaced(tmp_path: Path) -> None:
    """Others may have its public half."""
    complete(str(tmp_path), 3)
    before = (tmp_path / keys.PUBLIC_NAME).read_text()
    (tmp_path / keys.secret_name(1)).unlink()
    with pytest.raises(ConfigError, match=r"peer-001\.secret beside public\.toml, found none"):
        complete(str(tmp_path), 3)
    assert (tmp_path / keys.PUBLIC_NAME).read_text() == before


def test_lists_of_other_keys_are_not_replaced(tmp_path: Path) -> None:
    complete(str(tmp_path), 3)
    (tmp_path / keys.secret_name(1)).write_text(PAIRS[7][1])
    with pytest.raises(ConfigError, match="expected the keys of the secrets"):
        complete(str(tmp_path), 3)


def test_a_secret_mounted_for_one_peer_has_a_name_of_its_own(tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    (tmp_path / keys.secret_name(4)).rename(tmp_path / keys.OWN_NAME)
    assert keys.read(tmp_path, 4, 10)[0] == PAIRS[4][1]


def test_a_list_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    keys.write(tmp_path, {peer: PAIRS[peer] for peer in range(3)})
    path = tmp_path / keys.PUBLIC_NAME
    listed, all_listed = keys.PublicList(tmp_path, 0, 3), keys.PublicList(tmp_path, 0, 3, newcomers=True)
    assert listed.changed() is None
    keys.add(tmp_path, 5, PAIRS[5])
    three = {peer: PAIRS[peer][0] for peer in range(3)}
    assert listed.changed() == three, "no more than there are peers"
    assert all_listed.changed() == three | {5: PAIRS[5][0]}
    assert listed.changed() is None
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="expected"):
        listed.changed()
    assert listed.changed() is None, "the same is not tried again"
    path.unlink()
    with pytest.raises(ConfigError, match=r"public\.toml"):
        listed.changed()
    path.write_text(whole.replace(PAIRS[1][0], PAIRS[7][0]))
    assert listed.changed() == three | {1: PAIRS[7][0]}


@pytest.mark.parametrize("end", ["", "\n", "\n# of the new rack\n"])
def test_one_more_peer_gets_keys(end: str, tmp_path: Path) -> None:
    keys.write(tmp_path, {peer: PAIRS[peer] for peer in range(3)})
    public = tmp_path / keys.PUBLIC_NAME
    public.write_text(public.read_text().rstrip("\n") + end)
    before = public.read_text()
    assert keys.add(tmp_path, 8, PAIRS[8]) == [public, tmp_path / keys.secret_name(8)]
    assert public.read_text().startswith(before)
    assert keys.read(tmp_path, 8, 3, newcomers=True) == (
        PAIRS[8][1],
        {peer: PAIRS[peer][0] for peer in (0, 1, 2, 8)},
    )
    assert stat.S_IMODE((tmp_path / keys.secret_name(8)).stat().st_mode) == 0o600


def test_keys_that_are_there_are_not_replaced_by_one_more(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"public\.toml"):
        keys.add(tmp_path, 8, PAIRS[8])
    assert not list(tmp_path.iterdir())
    keys.write(tmp_path, {peer: PAIRS[peer] for peer in range(3)})
    (tmp_path / keys.secret_name(8)).write_text("precious")
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    for peer in (2, 8):
        with pytest.raises(ConfigError, match=f"no key of peer {peer}"):
            keys.add(tmp_path, peer, PAIRS[peer])
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_key_belongs_to_one_peer(tmp_path: Path) -> None:
    keys.write(tmp_path, {0: PAIRS[0], 1: PAIRS[1], 2: (PAIRS[0][0], PAIRS[2][1])})
    assert "a key of its own for peer 2: 0 has it" in refused(tmp_path)


def test_a_secret_of_another_peer_is_refused_and_one_that_nobody_knows_yet_is_not(tmp_path: Path) -> None:
    keys.write(tmp_path, PAIRS)
    (tmp_path / keys.secret_name(0)).write_text(PAIRS[1][1])
    secret, public = keys.read(tmp_path, 0, 3)
    with pytest.raises(ConfigError, match=r"expected the secret key of peer 0, found that of peer 1, as public\.toml"):
        keys.check_owner(SECRETS[secret], public, 0, tmp_path)
    for own in (PAIRS[0][0], PAIRS[9][0]):
        keys.check_owner(own, public, 0, tmp_path)


@pytest.mark.parametrize("word", ["%nSc1", "#####"])
def test_forty_digits_may_be_no_key(word: str, tmp_path: Path) -> None:
    """Five digits of base 85 hold a little more than four bytes."""
    keys.write(tmp_path, {0: PAIRS[0], 1: PAIRS[1], 2: (word + "0" * 35, PAIRS[2][1])})
    assert "a key for peer 2" in refused(tmp_path)
    (tmp_path / keys.PUBLIC_NAME).unlink()
    for peer in range(3):
        (tmp_path / keys.secret_name(peer)).unlink()
    keys.write(tmp_path, {0: PAIRS[0], 1: PAIRS[1], 2: ("%nSc0" + "0" * 35, PAIRS[2][1])})
    assert keys.read(tmp_path, 0, 3)[1][2] == "%nSc0" + "0" * 35
