"""CapFilt: captions for web images, and a filter for theirs and the web's."""
