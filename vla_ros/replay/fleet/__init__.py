"""Many bags: one stored result for each, made by several processes or machines, and judged as one replay."""
