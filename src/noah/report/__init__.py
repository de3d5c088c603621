"""From the files of finished runs to tables and figures. Reads files only and loads no torch.

collect (long.parquet), fairness (fairness.json) -> comparison (rows, by stats) -> tables (by notes and render), figures
"""
