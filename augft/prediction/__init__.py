"""Batch prediction: pictures, however many, → one row each, on Ray Data.

listing.py    what a source holds, cut into units: a file on disk, not a list in memory
files.py      a folder of picture files, on a disk or an object store
archives.py   tar and zip archives, read where they lie
tables.py     Parquet files with a column of pictures, packed sets
source.py     which of these a source is
pipeline.py   units → Ray Data → a part file each, written by the actor that has the model
unfinished.py the folder of part files: what is done, and of which prediction
result.py     part files → the predictions, in the source's order, whole or not at all
predict.py    all of it in order
"""
