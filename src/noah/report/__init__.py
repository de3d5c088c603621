"""From the files of finished runs to tables and figures. Reads files only and loads no torch.

collect (long.parquet), fairness (fairness.json) -> comparison (comparison.parquet, by records, stats, verdicts)
-> tables (by arms, notes and render), figures
"""
