"""From an image with holes to its inpainted image: crop windows, batches, compositing."""
