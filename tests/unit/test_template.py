"""The experiment file to begin with: complete, true, and what it says it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from peer import settings, template
from peer.__main__ import DEFAULT, cli
from peer.errors import ConfigError
from peer.settings import Experiment

LINE = re.compile(r"^#(\w+ = .*)$", flags=re.MULTILINE)


def test_every_setting_has_a_meaning_and_nothing_else_has() -> None:
    assert template.all_meanings().keys() == settings.flat(Experiment()).keys()
    assert all(len(meaning) > 10 for meaning in template.all_meanings().values())


@pytest.mark.parametrize("source", [DEFAULT, *sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))])
def test_a_file_is_the_experiment_again_with_and_without_its_defaults_shown(source: Path) -> None:
    given = settings.read(source)
    text = template.text(given, "mine.toml")
    for one in (text, LINE.sub(r"\1", text)):
        found = tomllib.loads(one)
        assert settings.from_tree(found) == given
    assert settings.flat(given).keys() == {
        f"{table}.{key}" if isinstance(value, dict) and table != key else key
        for table, values in tomllib.loads(LINE.sub(r"\1", text)).items()
        for key, value in (
            ((key, values) for key in values) if isinstance(values, dict) else ((table, values),)  # a table, or a value
        )
    }


def test_what_is_not_changed_is_shown_as_a_default_and_lines_are_short() -> None:
    text = template.text(msgspec.structs.replace(Experiment(), name="mine"), "mine.toml")
    assert tomllib.loads(text) == {"name": "mine"} | {table: {} for table in template.tables()}
    assert max(map(len, text.splitlines())) <= 120
    assert "`peer check mine.toml`" in text.replace("\n# ", " ")


def test_a_setting_comes_with_its_alternatives() -> None:
    text = template.text(Experiment(), "mine.toml").replace("\n# ", " ")
    assert "One of partial, full." in text
    assert "Accepted: 0 < alpha <= 1" in text
    assert '#tau = "auto"' in text
    assert "#lower = -inf" in text


def run(path: Path, *more: str) -> None:
    CliRunner().invoke(cli, ["init", str(path), *more], standalone_mode=False, catch_exceptions=False)


def test_the_command_replaces_a_file_only_when_told(tmp_path: Path) -> None:
    (path := tmp_path / "e.toml").write_text("mine")
    with pytest.raises(ConfigError, match=r"e\.toml: expected no file, found one; --force replaces it"):
        run(path)
    assert path.read_text() == "mine"
    run(path, "--force")
    assert settings.read(path).name == "e"


def test_the_command_names_what_keeps_it_from_writing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        run(tmp_path / "nowhere" / "e.toml")
    with pytest.raises(ConfigError, match="name: expected"):
        run(tmp_path / f"{'x' * 210}.toml")
