"""A study as one HTML file that works offline: `study` writes it, from pieces of a `page` and its `charts`."""
