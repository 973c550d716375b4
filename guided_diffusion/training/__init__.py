"""Parts of training: configuration, data, trainers, timestep sampling, loss log and cost."""
