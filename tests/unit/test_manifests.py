"""Objects of a run on Kubernetes as YAML: what goes in comes out; the objects themselves are in `test_kubernetes`."""

from __future__ import annotations

import base64

import yaml
from hypothesis import given
from hypothesis import strategies as st

from peer.manifests import block, encoded, quoted


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_reads_back_from_yaml(text: str) -> None:
    assert yaml.safe_load(quoted(text)) == text
    assert yaml.safe_load("key:\n  inner: " + block(text, 4) + "\n") == {"key": {"inner": text}}
    assert "\n" not in quoted(text)


@given(st.binary(max_size=1000))
def test_any_bytes_read_back_from_yaml(value: bytes) -> None:
    tree = yaml.safe_load("key:\n  inner: " + encoded(value, 4) + "\n")
    assert base64.b64decode(tree["key"]["inner"], validate=True) == value
