"""Finding fast schedules.

Reading guide: `sketch` and `rules` say which families of schedules a workload has; `space` makes candidates of them;
`evolutionary` and `mcts` propose candidates (`base.SearchStrategy`), ranked by `ranking`; `tune` builds,
measures and compares them with the incumbent (`contest`), task by task as `task_scheduler` decides, and answers
with an `outcome`; `predict` chooses without measuring; `effort` is the table of what each level may cost.
Measuring, storing and building are handed in (`base`), so every test here runs on fakes.
"""
