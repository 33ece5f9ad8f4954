"""The contract of a divergence, checked."""

from __future__ import annotations

from ganpo_core.components import Divergence
from ganpo_core.testing.changes import expect_options_matter
from ganpo_core.testing.distances import DistanceCheck
from ganpo_core.testing.expect import expect_component
from ganpo_core.testing.games import GameCheck


def check_divergence(divergence: Divergence) -> None:
    """Check a game's `critic_loss`, `policy_loss`, `estimate`, `penalty` and `project`, or a direct `distance`.

    Baselines are given, as running means are. Where `additive` is True, values must be means over rows (or, for
    distances, over valid positions); where `closed_form` gives a number, a trained critic must come near it.
    """
    expect_component(divergence, Divergence)
    if divergence.needs_critic:
        game = GameCheck(divergence)
        game.options_agree()
        game.values_are_finite()
        game.gradients_are_right()
        game.only_valid_rows_count()
        game.order_of_rows_does_not_matter()
        if divergence.additive:
            game.losses_are_means_over_rows()
        game.the_critic_learns_the_order()
        game.the_policy_is_pulled_to_the_anchor()
        game.equal_groups_show_no_divergence()
        game.penalty_is_finite_and_sees_no_padding()
        game.projection_settles_at_once()
        game.the_best_critic_reaches_the_closed_form()
        expect_options_matter(divergence, Divergence, lambda other: GameCheck(other).outputs())
    else:
        direct = DistanceCheck(divergence)
        direct.values_are_finite()
        if not divergence.queue_size:
            direct.equal_latents_are_at_rest()
        direct.only_valid_positions_count()
        direct.order_of_rows_does_not_matter()
        direct.gradients_are_right()
        if divergence.additive:
            direct.distance_is_a_mean_over_positions()
        direct.a_shift_costs_its_closed_form()
        direct.the_queue_holds_rows()
        expect_options_matter(divergence, Divergence, lambda other: DistanceCheck(other).outputs())
