"""Video and image files to frames."""
