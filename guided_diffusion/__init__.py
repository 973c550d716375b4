"""Penumbra: fills holes and lifts shadows with diffusion models."""
