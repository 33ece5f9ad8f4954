"""Latent adversarial regularization of offline preference optimization, recombined from plugins."""
