"""What is checked of an experiment: each setting by itself, and those that depend on each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from peer import networks
from peer.errors import ConfigError
from peer.settings.places import check_text, endpoint_of, published_at, split_address
from peer.settings.tables import Experiment, Method, Model, Regime, Robustness, Surrogate, Topology, flat
from peer.settings.values import (
    CHOCO,
    CHOICES,
    DIFFERENCE,
    FEEDBACK_ALIGNMENT,
    MAX_CHECKPOINT_EVERY,
    NEXT,
    RANDOM_K,
    RANGES,
    TOP_K,
    WORDS,
)
from topology.gossip import CHEBYSHEV, STATIC
from topology.weights import FDLA, STATIC_ONLY

MAX_RUN_ID: Final = 200
"""Characters of what tells a run from others, as messages carry it."""

MAX_NAME_BYTES: Final = MAX_RUN_ID - 9
"""Of a name, which with nine characters that are drawn is such an id, and names a folder."""


def check(experiment: Experiment) -> None:
    """Check each setting by itself, and those that depend on each other.

    Raises
    ------
    ConfigError
        Names the key, what was expected and what was found.
    """
    settings = flat(experiment)
    for key, value in settings.items():
        if isinstance(value, str):
            check_text(value, key)
    for key, choices in CHOICES.items():
        if settings[key] not in choices:
            shown = ", ".join(choice for choice in choices if choice)
            raise ConfigError(key, f"expected one of {shown}; found {settings[key]!r}")
    for key, (low, high, accepted) in RANGES.items():
        value = settings[key]
        if value in WORDS.get(key, ()):
            continue
        if isinstance(value, str) or not low <= value <= high or math.isinf(value):
            raise ConfigError(key, f"expected {accepted}, found {value!r}")
    _check_together(experiment)


def _check_together(experiment: Experiment) -> None:
    data, step, transport = experiment.data, experiment.step, experiment.transport
    if not data.dataset and not data.path:
        raise ConfigError("data", "expected dataset = a name, or path = a pattern of shard files; found neither")
    if data.path and experiment.peers > 1 and "{id" not in data.path:
        raise ConfigError("data.path", f"expected a pattern with {{id}}, one file a peer; found {data.path!r}")
    for key, pattern in (("data.path", data.path), ("data.validation_path", data.validation_path)):
        try:
            pattern.format(id=0)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ConfigError(key, f"expected a pattern with {{id}}, found {pattern!r}") from error
    if data.test_path and not data.path:
        cut = "for a data set that is cut has a test set of its own"
        raise ConfigError("data.test_path", f"expected with data.path only, {cut}; found {data.test_path!r}")
    name, n_bytes = experiment.name, len(experiment.name.encode(errors="replace"))
    if name in ("", ".", "..") or "/" in name or n_bytes > MAX_NAME_BYTES:
        accepted = f"a name of 1 to {MAX_NAME_BYTES} bytes without /, but . and .."
        raise ConfigError("name", f"expected {accepted}; found {name!r}")
    if len(experiment.run.id) > MAX_RUN_ID:
        raise ConfigError("run.id", f"expected at most {MAX_RUN_ID} characters, found {len(experiment.run.id)}")
    for key, text in (("name", name), ("run.id", experiment.run.id)):
        if not text.isprintable():
            raise ConfigError(key, f"expected printable characters, found {text!r}")
    if any(width < 1 for width in experiment.model.hidden):
        raise ConfigError("model.hidden", f"expected widths >= 1, found {list(experiment.model.hidden)}")
    _check_layers(experiment.model)
    _check_tangents(experiment)
    _check_inner_product(experiment)
    _check_method(experiment)
    longest = 1.0 if isinstance(step.alpha, str) else step.alpha
    if experiment.method.kind != NEXT:
        longest = experiment.method.step_size
    if step.rule == "diminishing" and not step.mu * longest < 1.0:
        name = "alpha" if experiment.method.kind == NEXT else "step_size"
        raise ConfigError("step.mu", f"expected 0 <= mu < 1/{name} for diminishing steps, found {step.mu}")
    if step.rule != "diminishing" and step.mu != 0.0:
        raise ConfigError("step.mu", f'expected 0 with rule = "{step.rule}", found {step.mu}')
    if experiment.surrogate.refresh and not experiment.surrogate.batch:
        every = experiment.surrogate.refresh
        raise ConfigError(
            "surrogate.refresh", f"expected 0 where each round takes all samples, batch = 0; found {every}"
        )
    _check_regime(experiment)
    _check_feedback(experiment)
    _check_penalty(experiment)
    _check_clipping(experiment)
    _check_compression(experiment)
    if experiment.run.tolerance and experiment.run.mode != "rounds":
        mode, found = experiment.run.mode, experiment.run.tolerance
        raise ConfigError(
            "run.tolerance", f'expected 0 with mode = "{mode}", for only rounds stop early; found {found}'
        )
    if experiment.surrogate.inexactness and experiment.run.mode != "rounds":
        mode, found = experiment.run.mode, experiment.surrogate.inexactness
        raise ConfigError(
            "surrogate.inexactness", f'expected 0 with mode = "{mode}", which has no schedule of rounds; found {found}'
        )
    _check_validation(experiment)
    if experiment.topology.schedule == "file" and not experiment.topology.path:
        raise ConfigError("topology.path", 'expected a file for schedule = "file", found none')
    if experiment.topology.directed and experiment.run.mode != "async":
        mode = experiment.run.mode
        raise ConfigError("topology.directed", f'expected false with mode = "{mode}", as weights must be symmetric')
    _check_weights(experiment)
    _check_consensus(experiment)
    if transport.addresses and len(transport.addresses) != experiment.peers:
        found = len(transport.addresses)
        raise ConfigError("transport.addresses", f"expected one for each of {experiment.peers} peers, found {found}")
    for address in transport.addresses:
        split_address(address, "transport.addresses")
    if transport.bind:
        split_address(transport.bind, "transport.bind")
    endpoint_of(experiment.metrics.openmetrics)
    if experiment.run.publish:
        published_at(experiment.run.publish, experiment.peers - 1)


WITHOUT: Final[Mapping[str, str]] = {
    **{f"surrogate.{name}": "a surrogate" for name in Surrogate.__struct_fields__ if name != "batch"},
    "surrogate.refresh": "full passes between batches, whose gradients are taken as they are",
    "surrogate.gradient": "feedback, as gradients are what it is made of",
    **{f"regime.{name}": "a network that stays linearized" for name in Regime.__struct_fields__},
    "step.alpha": "a step towards the solution of a surrogate; method.step_size is the step",
    **{f"robustness.{name}": "clipping of what neighbors say" for name in Robustness.__struct_fields__},
    "run.mode": "a form without rounds",
}
"""What other methods than NEXT do not have, by setting."""

EXACT: Final = ("exact-diffusion", "extra")
"""Methods whose corrections add up over rounds, and are right for one step size."""


def _check_method(experiment: Experiment) -> None:
    method, found, usual = experiment.method, flat(experiment), flat(Experiment())
    if method.kind == NEXT:
        own = {name: "which has alpha and a surrogate" for name in Method.__struct_fields__ if name != "kind"}
    else:
        own = {} if method.kind in ("d-psgd", CHOCO) else dict.fromkeys(("local_steps", "momentum"), "which has none")
    for name, why in own.items():
        key = f"method.{name}"
        if found[key] != usual[key]:
            default = f'expected the default {usual[key]} with method.kind = "{method.kind}", {why}'
            raise ConfigError(key, f"{default}; found {found[key]!r}")
    if method.kind == NEXT:
        return
    for key, what in WITHOUT.items():
        if found[key] != usual[key]:
            default = f'expected the default {usual[key]!r} with method.kind = "{method.kind}"'
            raise ConfigError(key, f"{default}, which does not have {what}; found {found[key]!r}")
    if experiment.run.tolerance and not experiment.tracks:
        why = "in which no agent knows the gradient of the network"
        raise ConfigError(
            "run.tolerance", f'expected 0 with method.kind = "{method.kind}", {why}; found {experiment.run.tolerance}'
        )
    if method.kind in EXACT and experiment.step.rule == "diminishing":
        why = "whose corrections are right for one step size; found 'diminishing'"
        raise ConfigError("step.rule", f'expected constant with method.kind = "{method.kind}", {why}')


def _check_layers(model: Model) -> None:
    networks.entries(model.layers)
    if model.image and (len(model.image) != 3 or min(model.image) < 1):
        raise ConfigError("model.image", f"expected channels, height and width >= 1, found {list(model.image)}")
    if model.image and not model.layers:
        raise ConfigError("model.image", f"expected [] without model.layers, found {list(model.image)}")
    for key in ("hidden", "activation", "layers") if model.python else ():
        if getattr(model, key) != getattr(Model(), key):
            raise ConfigError(f"model.{key}", f"expected nothing beside model.python = {model.python!r}, found one")


def _check_feedback(experiment: Experiment) -> None:
    surrogate, tolerance = experiment.surrogate, experiment.run.tolerance
    if surrogate.gradient != FEEDBACK_ALIGNMENT:
        return
    if surrogate.kind != "full":
        why = "as the partial surrogate needs the true Jacobian, which feedback does without"
        raise ConfigError("surrogate.gradient", f'expected backprop with kind = "{surrogate.kind}", {why}')
    if experiment.regime != Regime() or experiment.objective.tangent_strength:
        why = "with [regime] or tangent_strength, whose gradients layers do not get by feedback"
        raise ConfigError("surrogate.gradient", f"expected backprop {why}")
    if tolerance:
        why = "as what feedback gives may vanish where no gradient does"
        raise ConfigError("run.tolerance", f"expected 0 with {FEEDBACK_ALIGNMENT}, {why}; found {tolerance}")


def _check_inner_product(experiment: Experiment) -> None:
    found, objective = experiment.model.inner_product, experiment.objective
    problems = {
        "with [regime], which is about the network's own coordinates": experiment.regime != Regime(),
        "with model.python, of which layers are not known": bool(experiment.model.python),
        "with tangent_strength, whose gradient is in the network's own coordinates": objective.tangent_strength > 0.0,
        "with feedback alignment, which is in the network's own coordinates": (
            experiment.surrogate.gradient == FEEDBACK_ALIGNMENT
        ),
        "with group_l2, whose groups then have no proximal map in closed form": objective.regularizer == "group_l2",
    }
    for problem, holds in problems.items():
        if holds and found != Model().inner_product:
            raise ConfigError("model.inner_product", f"expected euclidean {problem}; found {found!r}")


def _check_tangents(experiment: Experiment) -> None:
    objective, image = experiment.objective, experiment.model.image
    if not objective.tangent_strength:
        return
    if experiment.regime != Regime():
        raise ConfigError("objective.tangent_strength", "expected 0 with [regime], which has no second derivatives")
    if not image:
        raise ConfigError("objective.tangent_strength", "expected 0 without model.image, for vectors do not shift")
    reach = min(image[1:]) - 1
    if not objective.shifts or any(max(map(abs, shift)) > reach or shift == (0, 0) for shift in objective.shifts):
        found = [list(shift) for shift in objective.shifts]
        raise ConfigError("objective.shifts", f"expected [rows, columns] of up to {reach}, not both 0; found {found}")


def _check_regime(experiment: Experiment) -> None:
    regime, kind, every = experiment.regime, experiment.regime.kind, experiment.regime.relinearize_every
    if kind != "full" and every != Regime().relinearize_every:
        itself = f"expected the default with kind = {kind!r}, which says itself when the network is linearized"
        raise ConfigError("regime.relinearize_every", f"{itself}; found {every}")
    if kind in ("neural-tangent", "random-features") and regime.trainable:
        itself = f"expected [] with kind = {kind!r}, which says itself what is trained"
        by_hand = 'kind = "full" takes trainable and relinearize_every'
        raise ConfigError("regime.trainable", f"{itself} ({by_hand}); found {list(regime.trainable)}")
    if kind == "auto" and experiment.surrogate.batch:
        whole = "which looks at all samples in each round to see whether it is time to linearize"
        raise ConfigError(
            "surrogate.batch", f"expected 0 with regime.kind = 'auto', {whole}; found {experiment.surrogate.batch}"
        )
    if every > 1 and experiment.run.tolerance:
        which = f"with relinearize_every = {every}, as between two linearizations residuals are not the network's"
        raise ConfigError("run.tolerance", f"expected 0 {which}; found {experiment.run.tolerance}")


def _check_validation(experiment: Experiment) -> None:
    data, patience, mode = experiment.data, experiment.run.validation_patience, experiment.run.mode
    fraction, path = data.validation_fraction, data.validation_path
    if fraction and path:
        found = f"found {fraction} and {path!r}"
        raise ConfigError("data", f"expected validation_fraction or validation_path, not both; {found}")
    if not (fraction or path):
        if patience:
            problem = "expected 0 without data.validation_fraction or data.validation_path, as no samples are held out"
            raise ConfigError("run.validation_patience", f"{problem}; found {patience}")
        return
    key, nothing = ("data.validation_path", "none") if path else ("data.validation_fraction", "0")
    found = f"found {path!r}" if path else f"found {fraction}"
    if mode != "rounds":
        problem = f'expected {nothing} with mode = "{mode}", for only rounds track a validation loss'
        raise ConfigError(key, f"{problem}; {found}")
    if experiment.robustness.clip_w:
        raise ConfigError(key, f"expected {nothing} with [robustness], for validation losses are not clipped; {found}")


def _check_penalty(experiment: Experiment) -> None:
    objective, blocks = experiment.objective, experiment.surrogate.blocks
    lower, upper = objective.lower, objective.upper
    if not lower < upper:  # nan also
        raise ConfigError("objective.lower", f"expected a number below upper = {upper}, found {lower}")
    if objective.regularizer == "group_l2" and (lower, upper) != (-math.inf, math.inf):
        raise ConfigError(
            "objective.regularizer",
            "expected one of none, l2, l1, elastic_net with bounds, as a group's proximal map within a box "
            "has no closed form; found 'group_l2'",
        )
    if objective.regularizer == "group_l2" and blocks not in (1, "layers"):
        raise ConfigError(
            "surrogate.blocks", f'expected 1 or "layers" with group_l2, as others cut groups; found {blocks}'
        )


def _check_weights(experiment: Experiment) -> None:
    topology, mode, key = experiment.topology, experiment.run.mode, "topology.weights"
    if topology.weights != Topology().weights and mode != "rounds":
        found = f"found {topology.weights!r}"
        raise ConfigError(key, f'expected the default with mode = "{mode}", which has weights of its own; {found}')
    if topology.weights == FDLA and topology.schedule != "static":
        raise ConfigError(key, f"{FDLA!r}: {STATIC_ONLY}; found {topology.schedule!r}")
    if topology.weights == FDLA and experiment.robustness.clip_w:
        raise ConfigError(key, f"expected weights that are never negative with [robustness], found {FDLA!r}")


def _check_consensus(experiment: Experiment) -> None:
    topology, mode, key = experiment.topology, experiment.run.mode, "topology.consensus"
    steps, every = topology.consensus_steps, experiment.run.checkpoint_every
    if steps != 1 and mode != "rounds":
        raise ConfigError(f"{key}_steps", f'expected 1 with mode = "{mode}", which has no rounds; found {steps}')
    if steps * every > MAX_CHECKPOINT_EVERY:
        kept = f"for neighbors keep their shares of all exchanges between two checkpoints; found {every}"
        allowed = f"0 (never) to {MAX_CHECKPOINT_EVERY // steps} with consensus_steps = {steps}"
        raise ConfigError("run.checkpoint_every", f"expected {allowed}, {kept}")
    if topology.consensus != CHEBYSHEV:
        return
    if mode != "rounds":
        raise ConfigError(key, f'expected plain with mode = "{mode}", which has no rounds; found {CHEBYSHEV!r}')
    if steps == 1:
        raise ConfigError(key, f"expected plain with consensus_steps = 1, which is no polynomial; found {CHEBYSHEV!r}")
    if topology.schedule != "static":
        raise ConfigError(key, f"{CHEBYSHEV!r}: {STATIC}; found {topology.schedule!r}")
    if experiment.robustness.clip_w:
        mean = "as what it makes of clipped differences is no mean of what neighbors say"
        raise ConfigError(key, f"expected plain with [robustness], {mean}; found {CHEBYSHEV!r}")


def _check_clipping(experiment: Experiment) -> None:
    clip_w, clip_y = experiment.robustness.clip_w, experiment.robustness.clip_y
    clips = {f"robustness.{key}": radius for key, radius in msgspec.structs.asdict(experiment.robustness).items()}
    key = next((key for key, radius in clips.items() if radius), None)
    if key is None:
        return
    if experiment.run.mode != "rounds":
        raise ConfigError(
            key, f"expected 0 with mode = {experiment.run.mode!r}, for only rounds clip; found {clips[key]}"
        )
    if not (clip_w and clip_y):  # who can pull the one pulls the other
        raise ConfigError("robustness", f"expected clip_w and clip_y both > 0 or all 0, found {clip_w} and {clip_y}")


def _check_compression(experiment: Experiment) -> None:
    kind, dtype, compression = experiment.compression_kind, experiment.transport.wire_dtype, experiment.compression
    if experiment.run.mode != "rounds" and dtype == "bf16":
        key, need = "transport.wire_dtype", "which has no links on which differences could be told"
        raise ConfigError(key, f'expected f8 or f4 with mode = "{experiment.run.mode}", {need}; found {dtype!r}')
    key, found, method = "compression.kind", f"found {kind!r}", experiment.method.kind
    if method == CHOCO and kind not in (TOP_K, DIFFERENCE):
        raise ConfigError(key, f'expected {TOP_K} or {DIFFERENCE} with method.kind = "{CHOCO}"; {found}')
    if kind == "none":
        return
    problems = {
        f'with mode = "{experiment.run.mode}", whose messages may be lost, and replicas with them': (
            experiment.run.mode != "rounds"
        ),
        "with [robustness], as what is clipped must be all that a neighbor says": bool(experiment.robustness.clip_w),
        "with run.tolerance, as neighbors do not see how far they are from agreeing": experiment.run.tolerance > 0.0,
        f"with topology.consensus = {CHEBYSHEV!r}, of which the polynomial is of whole vectors": (
            experiment.topology.consensus == CHEBYSHEV
        ),
        f'with method.kind = "{method}", whose corrections are right for whole vectors': method in EXACT,
        f"with topology.weights = {FDLA!r}, of which some may be negative": experiment.topology.weights == FDLA,
    }
    for problem, holds in problems.items():
        if holds:
            raise ConfigError(key, f"expected none {problem}; {found}")
    if kind == RANDOM_K and dtype == "bf16":
        values = "for it sends values and no differences, which bf16 rounds to two digits"
        raise ConfigError("transport.wire_dtype", f"expected f8 or f4 with {RANDOM_K}, {values}; found {dtype!r}")
    if kind == RANDOM_K and compression.gamma != "auto":
        raise ConfigError("compression.gamma", f"expected auto with {RANDOM_K}, found {compression.gamma}")
