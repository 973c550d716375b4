"""Ways to share the images of one run among processes and machines."""
