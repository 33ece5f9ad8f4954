"""A third-party plugin: one preference loss, `objective: {use: acme_hinge}`."""

from dataclasses import dataclass

from ganpo_core import Objective, PairLogps, PairLoss, PositiveFloat, hookimpl


@dataclass(frozen=True)
class AcmeHinge(Objective):
    """max(0, margin - beta * (log-ratio of chosen - log-ratio of rejected)), a hinge with a margin of its own."""

    beta: PositiveFloat = 0.1
    """Scale of the implicit reward."""
    margin: PositiveFloat = 1.0
    """Reward difference beyond which a pair is done."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        chosen = self.beta * (policy.chosen.total - reference.chosen.total)
        rejected = self.beta * (policy.rejected.total - reference.rejected.total)
        return PairLoss((self.margin - chosen + rejected).relu(), chosen.detach(), rejected.detach())


@hookimpl
def ganpo_objectives() -> dict[str, type[Objective]]:
    return {"acme_hinge": AcmeHinge}
