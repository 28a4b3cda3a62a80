"""How a study is run.

`stages` is the table of contents: one function a stage of dvc.yaml. `run` takes one objective through them by DVC, and
`executor` all runs of a study, several at a time. `cost` and `power` say beforehand what that costs and what it can
decide; `comparison` sets finished runs side by side; `scaffold` and `pins` make a study of one's own, and `repair`
mends one.
"""
