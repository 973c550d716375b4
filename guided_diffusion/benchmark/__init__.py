"""Speed and memory compared with other engines: `python -m guided_diffusion.benchmark`."""
