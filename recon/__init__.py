"""Raw data in, images out."""
