"""Metrics, baselines and reports for inpainting and shadow removal."""
