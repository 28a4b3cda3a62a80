"""Pictures of topology through training: data in, a :class:`matplotlib.figure.Figure` out, and no MLflow.

The drawing functions are pure, on an Agg canvas, without pyplot and with matplotlib's global settings as they were;
`of_run` and `of_comparison` read the tables of a study and draw them all. `style.png_bytes` gives the same bytes
for the same data.
"""
