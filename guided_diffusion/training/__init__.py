"""What training is made of: settings, data, the choice of timesteps, one step, the loss log."""
