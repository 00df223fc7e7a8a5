"""Learn from images that nobody labelled: find people by clustering, remember them, and compare images with them."""
