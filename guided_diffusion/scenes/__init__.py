"""Procedural photographs of grounds and walls, with exact cast shadows."""
