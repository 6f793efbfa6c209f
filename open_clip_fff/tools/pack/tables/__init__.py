"""Tables: CSV, jsonl, json and parquet."""
