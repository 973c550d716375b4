"""Images, masks and their files: reading, writing, pairing by name."""
