"""Can this machine or cluster run this job: facts, measurements, what follows from them, and how it is shown."""
