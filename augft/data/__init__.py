"""Pictures to packed Parquet to the batches of a rank."""
