"""A run's model behind HTTP, on Ray Serve: `augft serve`.

classifier.py   picture files → probabilities, and what the run's policy makes of a picture; no HTTP, no Ray
counts.py       what was asked and how it went, in Prometheus' format
door.py         who may come in, and how much they may bring: token, bytes, time
app.py          the routes
replica.py      the deployment: batches, and replicas that are started again
start.py        start, wait, stop
page/           the page that people see
"""
