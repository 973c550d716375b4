"""Configuration: every YAML key with its default, and the code that reads, checks and translates YAML files.

Loads no torch.
"""
