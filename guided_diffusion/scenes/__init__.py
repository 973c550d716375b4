"""Procedural scenes with exact cast shadows."""
