"""How a study is run.

`stages` is the table of contents: one function a stage of dvc.yaml. `run` takes one objective through them by DVC, and
`executor` all runs of a study, several at a time; `preflight` refuses beforehand what a stage would refuse; `planning`
says what a run or a study costs (`cost` counts, `calibration` measures, `cards` are those of data sheets) and what it
can decide (`power`); `comparison` sets finished runs side by side; `scaffold` and `pins` make a study of one's own,
and `repair` mends one.
"""
