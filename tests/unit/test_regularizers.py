"""Penalties by hand: prox, faces, and parameters that are not regularized."""

from __future__ import annotations

import numpy as np
import pytest

from peer.optim.regularizers import L1, L2, Boxed, ElasticNet, GroupL2, NoRegularizer, Regularizer, group_l2

STRENGTH = np.array([1.0, 1.0, 0.0, 2.0])
W = np.array([3.0, -0.5, -4.0, 0.0])


def test_none_leaves_everything_as_it_is() -> None:
    r = NoRegularizer()
    assert (r.value(W), r.scale, r.smooth) == (0.0, 0.0, True)
    np.testing.assert_array_equal(r.prox(W, 7.0), W)
    np.testing.assert_array_equal(r.onto_face(W, 0.0 * W), W)


def test_l2_by_hand() -> None:
    r = L2(STRENGTH)
    assert (r.value(W), r.smooth) == (0.5 * (9.0 + 0.25), True)
    np.testing.assert_array_equal(r.gradient(W), [3.0, -0.5, 0.0, 0.0])
    np.testing.assert_array_equal(r.prox(W, 0.5), [2.0, -1.0 / 3.0, -4.0, 0.0])
    np.testing.assert_array_equal(r.whitening(W, 2.0)(W), W * (1.0 / np.sqrt(2.0 + STRENGTH)))
    assert r.face(W).all()


def test_l1_by_hand() -> None:
    r = L1(STRENGTH)
    assert (r.value(W), r.scale, r.smooth) == (3.5, 2.0, False)
    np.testing.assert_array_equal(r.gradient(W), [1.0, -1.0, 0.0, 0.0])
    np.testing.assert_array_equal(r.prox(W, 1.0), [2.0, 0.0, -4.0, 0.0])
    np.testing.assert_array_equal(r.face(W), [True, True, True, False])


def test_an_elastic_net_by_hand() -> None:
    r = ElasticNet(STRENGTH, np.array([1.0, 2.0, 0.0, 1.0]))
    assert (r.value(W), r.scale, r.smooth) == (3.5 + 4.5 + 0.25, 2.0, False)
    np.testing.assert_array_equal(r.gradient(W), [4.0, -2.0, 0.0, 0.0])
    np.testing.assert_array_equal(r.prox(W, 1.0), [1.0, 0.0, -4.0, 0.0])
    np.testing.assert_array_equal(r.face(W), [True, True, True, False])
    np.testing.assert_array_equal(r.whitening(W, 2.0).scale, 1.0 / np.sqrt([3.0, 4.0, 2.0]))


def test_the_ends_of_an_elastic_net_are_l1_and_l2() -> None:
    nothing = np.zeros(4)
    for net, end in ((ElasticNet(STRENGTH, nothing), L1(STRENGTH)), (ElasticNet(nothing, STRENGTH), L2(STRENGTH))):
        assert (net.value(W), net.scale, net.smooth) == (end.value(W), end.scale, end.smooth)
        np.testing.assert_array_equal(net.gradient(W), end.gradient(W))
        np.testing.assert_array_equal(net.face(W), end.face(W))
        np.testing.assert_array_equal(net.whitening(W, 0.5).scale, end.whitening(W, 0.5).scale)
        np.testing.assert_array_equal(net.prox(W, 0.5), end.prox(W, 0.5))
        np.testing.assert_array_equal(net.onto_face(-W, W), end.onto_face(-W, W))


def test_groups_by_hand() -> None:
    """Groups {0, 1} with a norm of 5, {2, 4} at 0, and parameter 3 in none."""
    r = GroupL2(np.array([0, 0, 1, -1, 1]), np.array([2.0, 1.0]))
    w = np.array([3.0, -4.0, 0.0, 7.0, 0.0])
    assert (r.value(w), r.scale, r.smooth, r.flat) == (10.0, 2.0, False, False)
    np.testing.assert_array_equal(r.gradient(w), [1.2, -1.6, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(r.prox(w, 1.0), 0.6 * w * [1, 1, 1, 0, 1] + w * [0, 0, 0, 1, 0], rtol=1e-15)
    np.testing.assert_array_equal(r.prox(w, 2.5), [0.0, 0.0, 0.0, 7.0, 0.0])
    np.testing.assert_array_equal(r.face(w), [True, True, False, True, False])
    np.testing.assert_array_equal(r.onto_face(np.ones(5), w), [1.0, 1.0, 0.0, 1.0, 0.0])


def test_a_group_is_curved_across_its_direction_only() -> None:
    r = GroupL2(np.array([0, 0, -1]), np.array([2.0]))
    white = r.whitening(np.array([3.0, -4.0, 0.0]), 0.25)
    np.testing.assert_allclose(white(np.array([3.0, -4.0, 1.0])), [6.0, -8.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(white(np.array([4.0, 3.0, 0.0])), np.array([4.0, 3.0, 0.0]) / np.sqrt(0.25 + 2.0 / 5.0))


def test_larger_groups_weigh_more_by_the_root_of_their_size() -> None:
    np.testing.assert_array_equal(group_l2(np.array([0, 1, -1, 1, 1, 1]), 3.0).strength, [3.0, 6.0])
    assert group_l2(np.full(2, -1), 3.0).smooth


def test_groups_that_are_not_cut_are_the_sum_of_their_parts() -> None:
    whole, w = GroupL2(np.array([0, 0, -1, 1, 2, 1]), np.array([2.0, 1.0, 3.0])), np.arange(1.0, 7.0)
    parts = [(whole.restricted(place), place) for place in (slice(0, 3), slice(3, 6))]
    assert whole.value(w) == pytest.approx(sum(part.value(w[place]) for part, place in parts), rel=1e-15)
    np.testing.assert_array_equal(
        np.concatenate([part.prox(w[place], 0.5) for part, place in parts]), whole.prox(w, 0.5)
    )


def test_a_box_by_hand() -> None:
    r = Boxed(L1(STRENGTH), np.full(4, -1.0), np.array([2.0, 2.0, np.inf, 2.0]))
    assert (r.scale, r.smooth, r.flat) == (2.0, False, True)
    np.testing.assert_array_equal(r.nearest(W), [2.0, -0.5, -1.0, 0.0])
    np.testing.assert_array_equal(r.prox(W, 0.25), [2.0, -0.25, -1.0, 0.0])
    np.testing.assert_array_equal(r.face(np.array([2.0, -0.5, -1.0, 0.0])), [False, True, False, False])
    held = np.array([2.0, -0.5, -1.0, 0.0])
    np.testing.assert_array_equal(r.onto_face(np.array([9.0, -9.0, 9.0, 9.0]), held), [2.0, -1.0, -1.0, 0.0])
    np.testing.assert_array_equal(r.whitening(held, 4.0).scale, [0.5])


def test_a_box_without_walls_is_what_is_in_it() -> None:
    for inner in (L1(STRENGTH), L2(STRENGTH), NoRegularizer()):
        box = Boxed(inner, np.full(4, -np.inf), np.full(4, np.inf))
        assert box.smooth == inner.smooth
        np.testing.assert_array_equal(box.prox(W, 0.5), inner.prox(W, 0.5))
        np.testing.assert_array_equal(box.face(W), inner.face(W))


def test_thresholds_are_met_exactly() -> None:
    r = L1(np.ones(3))
    np.testing.assert_array_equal(r.prox(np.array([0.25, -0.25, np.nextafter(0.25, 1.0)]), 0.25) != 0.0, [0, 0, 1])


def test_what_is_not_regularized_is_free_at_zero() -> None:
    r = L1(np.array([0.0, 1.0]))
    np.testing.assert_array_equal(r.face(np.zeros(2)), [True, False])
    np.testing.assert_array_equal(r.onto_face(np.array([-5.0, -5.0]), np.array([3.0, 3.0])), [-5.0, 0.0])


def test_faces_of_l1_end_where_a_sign_changes() -> None:
    r = L1(np.ones(4))
    of = np.array([1.0, 1.0, -1.0, 0.0])
    np.testing.assert_array_equal(r.onto_face(np.array([2.0, -2.0, 2.0, 2.0]), of), [2.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("r", [L1(np.zeros(0)), L2(np.zeros(0)), ElasticNet(np.zeros(0), np.zeros(0))])
def test_no_parameters_cost_nothing(r: Regularizer) -> None:
    assert (r.value(np.zeros(0)), r.scale) == (0.0, 0.0)


@pytest.mark.parametrize("r", [NoRegularizer(), L2(STRENGTH), L1(STRENGTH), ElasticNet(STRENGTH, STRENGTH[::-1])])
def test_penalties_of_parts_add_up_to_the_whole(r: Regularizer) -> None:
    parts = [slice(0, 1), slice(1, 3), slice(3, 4)]
    assert sum(r.restricted(place).value(W[place]) for place in parts) == r.value(W)
    near = np.concatenate([r.restricted(place).prox(W[place], 0.5) for place in parts])
    np.testing.assert_array_equal(near, r.prox(W, 0.5))
