"""A finished model, examined: `augft evaluate`.

corrupt/       the fifteen common corruptions, at five severities each
views.py       what is done to pictures before the model sees them
look.py        chunks of pictures through the model: logits, and sums of integers
workers.py     who looks at which chunk: threads of this process, or Ray actors
subject.py     the model of a run, and the pictures that it is shown
calibrate.py   whether its probabilities mean what they say; the temperature
paired.py      two models on the same pictures
findings.py    what can be found out: metrics, corruptions, sweeps, another model
assess.py      all of it in order; writes the evaluation and its page, and links it from the run's report
"""
