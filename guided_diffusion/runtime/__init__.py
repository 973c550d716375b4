"""The machine: devices, memory, ranks, threads, random seeds."""
