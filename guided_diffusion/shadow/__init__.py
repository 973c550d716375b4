"""Shadow removal: detect shadows, divide them out of the image, refine the pixels."""
