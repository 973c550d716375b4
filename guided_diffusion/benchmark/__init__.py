"""Speed and memory, side by side with programs that do the same: `python -m guided_diffusion.benchmark`."""
