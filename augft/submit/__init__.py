"""A job on a Ray cluster that is reached by its dashboard's HTTP port alone.

From the outside in:

    client      submit, follow, fetch the result
    follow      a job's log to its end, through lost connections and Ctrl-C
    cluster     the dashboard: find it, start a job; what it refuses, in a line
    parcel      what is sent along: the job file, and the policies and weights that it names here
    entry       what the cluster runs; sent along too, for it says so when augft is not there
    send        what the cluster runs to give the result away
"""
