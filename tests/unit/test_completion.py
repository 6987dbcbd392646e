"""What shells offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peer import completion
from peer.__main__ import cli
from peer.completion import Bash, joined

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment file, another file, a run, and a folder that holds one more of each."""
    for place in (tmp_path, tmp_path / "more"):
        (place / "runs" / "one").mkdir(parents=True)
        (place / "runs" / "one" / "experiment.toml").touch()
        (place / "mine.toml").touch()
        (place / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(words: str, current: str) -> list[str]:
    """What bash is told, as its own script asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_WORDS", f"peer {words} {current}".strip())
        patch.setenv("COMP_CWORD", str(len(words.split()) + 1))
        lines = Bash(cli, {}, "peer", completion.VARIABLE).complete().splitlines()
    return [line.removeprefix("plain,") for line in lines]


def test_commands_files_runs_and_settings_are_offered(folder: Path) -> None:
    assert offered("", "la") == ["launch"]
    assert offered("launch", "") == ["mine.toml", "more/", "runs/"]
    assert offered("launch", "more/m") == ["more/mine.toml"]
    assert offered("export", "runs/") == ["runs/one"]
    assert offered("launch --set", "surrogate.kin") == ["surrogate.kind="]


def test_what_may_not_be_seen_is_no_run_and_nobody_has_no_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def looked(path: Path, **how: bool) -> os.stat_result:
        if path.parent.name == "others":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    (folder / "others").mkdir()
    monkeypatch.setattr(Path, "stat", looked)
    assert offered("export", "") == ["more/", "others/", "runs/"]
    assert offered("export", "~nobody-at-all/") == offered("launch", "~nobody-at-all/") == []


def test_names_that_no_line_can_hold_are_not_offered(folder: Path) -> None:
    for name in (b"in-latin-\xe4.toml", b"two\nlines.toml"):
        Path(os.fsdecode(name)).touch()
    Path("zwölf.toml").touch()
    assert offered("launch", "") == ["mine.toml", "more/", "runs/", "zwölf.toml"]


def test_values_of_settings_are_words_of_their_own_to_bash(folder: Path) -> None:
    assert offered("launch --set surrogate.kind", "=") == ["partial", "full"]
    assert offered("launch --set surrogate.kind =", "p") == ["partial"]
    assert offered("launch --set step.alpha =", "a") == ["auto"]
    assert offered("launch --set topology.directed =", "t") == ["true"]
    assert offered("launch --set surrogate.kind = full mi", "") == []
    assert offered("launch --set surrogate.kind = full", "mi") == ["mine.toml"]


def test_words_around_an_equals_sign_are_one() -> None:
    assert joined(["launch", "--set", "a", "=", "b", "c"]) == ["launch", "--set", "a=b", "c"]
    assert joined(["--set", "a", "="]) == ["--set", "a="]
    assert joined(["--set", "a", "=", "b", ""]) == ["--set", "a=b", ""]
    assert joined([""]) == [""]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_scripts_are_those_of_click_for_this_program(shell: str) -> None:
    text = completion.source(cli, shell)
    assert f"{completion.VARIABLE}={shell}_complete" in text
    assert "peer" in text
    if shell == "bash":
        assert completion.OPEN_ENDED in text, "click's script has the line that ours replaces"


def test_bash_itself_completes(folder: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    (folder / "bin").mkdir()
    program = folder / "bin" / "peer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m peer "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(peer completion bash)"
    COMP_WORDS=(peer launch --set topology.schedule = st); COMP_CWORD=5
    _peer_completion peer; echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "static", done.stderr
