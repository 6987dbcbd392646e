"""The user's function is found, called and judged: without PyTorch and JAX, which `tests/frameworks` has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import config, learning, settings
from peer.errors import ConfigError
from peer.frameworks import functions
from peer.optim.chains import Chain, mlp
from peer.shards import Shard

CHAINS = """
import math
from peer.optim.chains import Chain, Residual, mlp
from peer.optim.layers import Activation, Dense

def plain(input_shape, n_outputs):
    return mlp((math.prod(input_shape), 3, n_outputs), "tanh")

def seeded(input_shape, n_outputs, seed=0):
    assert seed == 7, seed
    return plain(input_shape, n_outputs)

def of_nothing():
    return mlp((4, 2), "tanh")

def of_a_seed(seed):
    return mlp((4, 2), "tanh" if seed == 7 else "relu")

def none(input_shape, n_outputs):
    return None

def narrow(input_shape, n_outputs):
    return mlp((math.prod(input_shape), 1), "tanh")

def of_another(other):
    return other

def fails(input_shape, n_outputs):
    return 1 / 0

def leaves(input_shape, n_outputs):
    raise SystemExit("no more")

def misses(input_shape, n_outputs):
    open("no-such-file")

def misfit(input_shape, n_outputs):
    return Chain((Dense(4, 3), Activation(3, "tanh"), Dense(5, n_outputs)))

def unlike(input_shape, n_outputs):
    return Chain((Dense(4, 3), Residual(Chain((Dense(3, 1),))), Dense(3, n_outputs)))

def curveless(input_shape, n_outputs):
    return Chain((Dense(4, 3), Activation(3, "swish"), Dense(3, n_outputs)))

def empty(input_shape, n_outputs):
    return Chain(())

def half(input_shape, n_outputs):
    return Chain((Dense(4, 2.5), Dense(2.5, n_outputs)))

def of_its_own(depth=0, width=3, seed=1, **more):
    assert (depth, seed, more) == (0, 7, {})
    return mlp((4, width, 2), "tanh")

def named(input_shape=(1,), n_outputs=1, width=3):
    return mlp((*input_shape, width, n_outputs), "tanh")

def any_number(*given):
    return mlp((*given[0], 3, given[1]), "tanh")

text = "no function"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules, forgotten after the test as if they had never been imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_chains.py").write_text(CHAINS)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    functions.network.cache_clear()


def made(folder: Path, name: str, shape: tuple[int, ...] = (4,), q: int = 2) -> Any:
    return functions.network(name, str(folder), shape, q, 7)


@pytest.mark.parametrize("function", ["plain", "seeded"])
def test_a_function_of_shape_and_outputs_gives_a_chain(folder: Path, function: str) -> None:
    assert made(folder, f"own_chains:{function}", (2, 3), 5) == mlp((6, 3, 5), "tanh")


@pytest.mark.parametrize("function", ["of_nothing", "of_a_seed"])
def test_a_function_may_take_nothing_or_a_seed_alone(folder: Path, function: str) -> None:
    assert made(folder, f"own_chains:{function}") == mlp((4, 2), "tanh")


@pytest.mark.parametrize("function", ["of_its_own", "named", "any_number"])
def test_parameters_of_its_own_keep_their_defaults(folder: Path, function: str) -> None:
    assert made(folder, f"own_chains:{function}") == mlp((4, 3, 2), "tanh")


def test_the_same_arguments_give_the_same_model(folder: Path) -> None:
    assert made(folder, "own_chains:plain") is made(folder, "own_chains:plain")
    assert made(folder, "own_chains:plain", q=3) != made(folder, "own_chains:plain")


def test_a_module_may_be_in_a_package_and_import_its_neighbors(folder: Path) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package" / "__init__.py").write_text("")
    (folder / "own_package" / "inner.py").write_text("from own_chains import plain\n")
    assert made(folder, "own_package.inner:plain") == mlp((4, 3, 2), "tanh")


@pytest.mark.parametrize("module", ["own_package.models.maker", "own_package"])
def test_what_fails_in_another_part_of_a_package_is_told_with_its_line(folder: Path, module: str) -> None:
    (folder / "own_package" / "models").mkdir(parents=True)
    (folder / "own_package" / "__init__.py").write_text("def made():\n    from own_helper import fails\n    fails()\n")
    (folder / "own_package" / "models" / "maker.py").write_text("from .. import made\n")
    (folder / "own_helper.py").write_text("\n\ndef fails():\n    raise ValueError('no such')\n")
    with pytest.raises(ConfigError, match=r"own_helper\.py, line 4: ValueError: no such"):
        made(folder, f"{module}:made")


BAD = {
    "form": ("own_chains.plain", 'expected "package.module:function"'),
    "no module": ("own_chain:plain", r"expected a module own_chain in .*, found none"),
    "no submodule": ("own_chains.inner:plain", "expected a module own_chains.inner"),
    "no function": ("own_chains:plane", "expected a function plane in own_chains, found none"),
    "no callable": ("own_chains:text", "expected a function text in own_chains, found str"),
    "arguments": ("own_chains:of_another", "expected a function of"),
    "nothing": ("own_chains:none", "expected a Chain, a torch.nn.Module, or a pair .*, found NoneType"),
    "outputs": ("own_chains:narrow", "expected a chain with 2 outputs, found 1"),
    "widths": (
        "own_chains:misfit",
        "expected as many inputs after Activation with 3 outputs, found Dense with 5",
    ),
    "residual": ("own_chains:unlike", "expected a Residual of a chain with as many outputs as inputs, found 3 and 1"),
    "activation": ("own_chains:curveless", "KeyError: 'swish'"),
    "no layers": ("own_chains:empty", "expected at least one layer, found none"),
    "halves": ("own_chains:half", "TypeError"),
    "exception": (
        "own_chains:fails",
        r"fails, called with input_shape \(4,\), n_outputs 2: own_chains\.py, line 29: ZeroDivisionError: ",
    ),
    "exit": ("own_chains:leaves", r"own_chains\.py, line 32: SystemExit: no more"),
}


@pytest.mark.parametrize(("name", "words"), BAD.values(), ids=BAD)
def test_what_is_not_as_expected_is_told_in_one_line(folder: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        made(folder, name)
    assert refusal.value.key == "model.python"
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_missing_is_the_hosts_refusal(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        made(folder, "own_chains:misses")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import own_missing\n", r"own_broken\.py, line 1: ModuleNotFoundError: No module named 'own_missing'"),
        ("\n\ndef f(:\n", r"own_broken:f: SyntaxError: .* \(own_broken\.py, line 3\)$"),
        ("raise RuntimeError('first\\nsecond')\n", r"own_broken\.py, line 1: RuntimeError: first$"),
    ],
)
def test_a_module_that_fails_is_told_with_its_line(
    folder: Path, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "own_broken.py").write_text(text)
    with pytest.raises(ConfigError, match=words):
        made(folder, "own_broken:f")


def test_a_module_that_another_hides_is_refused(folder: Path) -> None:
    (folder / "json.py").write_text(CHAINS)
    with pytest.raises(ConfigError, match="expected a name that no other module has"):
        made(folder, "json:plain")


def test_experiments_name_the_folder_of_their_file_unless_they_say_another(tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text('[data]\npath = "{id}"\n[model]\npython = "a:b"\n')
    assert settings.read(path).model.folder == str(tmp_path)
    assert settings.read(path, ["model.folder=there"]).model.folder == str(Path("there").absolute())
    path.write_text('[data]\npath = "{id}"\n[model]\npython = "a:b"\nfolder = "nets"\n')
    assert settings.read(path).model.folder == str(tmp_path / "nets")
    path.write_text('[data]\npath = "{id}"\n')
    assert settings.read(path).model.folder == ""


def test_peers_agree_on_the_name_and_not_on_the_folder() -> None:
    one, other, third = (
        settings.from_tree({"data": {"path": "{id}"}, "model": model})
        for model in (
            {"python": "a:b", "folder": "/here"},
            {"python": "a:b", "folder": "/there"},
            {"python": "a:c", "folder": "/here"},
        )
    )
    assert settings.shared(one) == settings.shared(other) != settings.shared(third)


@pytest.mark.parametrize("key", ["hidden", "layers", "activation"])
def test_a_network_is_described_once(key: str) -> None:
    model = {"python": "a:b", key: {"hidden": [3], "layers": ["tanh"], "activation": "relu"}[key]}
    with pytest.raises(ConfigError, match=r"expected nothing beside model\.python") as refusal:
        settings.from_tree({"data": {"path": "{id}"}, "model": model})
    assert refusal.value.key == f"model.{key}"


def test_outputs_are_those_of_the_data_unless_they_are_given(folder: Path) -> None:
    for outputs, labels, q in ((0, 3, 3), (0, 2, 1), (5, 3, 5)):
        tree = {"python": "own_chains:plain", "folder": str(folder), "outputs": outputs}
        experiment = settings.from_tree(
            {"seed": 7, "data": {"path": "{id}"}, "model": tree, "objective": {"loss": "cross_entropy"}}
        )
        shard = Shard(Path("peer-0.npz"), np.zeros((4, 2, 3)), None, np.arange(4) % labels, None, None)
        model = learning.model_of(experiment, shard, labels, learning.Initial("", {}))
        assert isinstance(model, Chain)
        assert (model.n_inputs, model.n_outputs) == (6, q)
        facts = config.common_settings(experiment, config.ground(experiment), shard)
        assert facts["shape of x"] == "(2, 3)"
