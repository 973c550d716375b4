"""Every YAML key, with its default; reading, checking and translating YAML files. Loads no torch."""
