"""One point cloud or one persistence diagram at a time: arrays in, arrays out, no files and no tracking."""
