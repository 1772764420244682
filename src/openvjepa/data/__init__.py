"""Videos, images, lists of them, clips, masks and the loaders."""
