"""From annotated Parquet files to a batch."""
