"""`pytest` here, with ganpo installed: the fixture comes with it."""

from acme_hinge import AcmeHinge


def test_acme_hinge_keeps_its_contract(ganpo_verify):
    ganpo_verify(AcmeHinge())
