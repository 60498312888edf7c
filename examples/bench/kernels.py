"""Sums what Nsight Compute measured, kernel by kernel, into a markdown table.

    ncu --metrics gpu__time_duration.sum --csv --log-file profile.csv COMMAND
    kernels.py profile.csv [grids]    with `grids` also by the size of the grid, which tells layers apart
"""

import csv
import re
import sys
from collections import defaultdict


def main():
    with open(sys.argv[1]) as file:
        lines = [line for line in file if not line.startswith("==")]
    spent = defaultdict(lambda: [0, 0.0])
    for row in csv.DictReader(lines):
        if row["Metric Name"] == "gpu__time_duration.sum":
            grid = " " + row["Grid Size"] if sys.argv[2:] == ["grids"] else ""
            kernel = spent[name(row["Kernel Name"]) + grid]
            kernel[0] += 1
            kernel[1] += milliseconds(row)
    print(table(spent))


def name(text):
    """A kernel's name without its arguments."""
    return re.sub(r"[<(].*", "", text)[:60]


def milliseconds(row):
    scale = {"ns": 1e-6, "nsecond": 1e-6, "us": 1e-3, "usecond": 1e-3, "ms": 1.0, "msecond": 1.0}
    return float(row["Metric Value"].replace(",", "")) * scale[row["Metric Unit"]]


def table(spent):
    """Kernels by falling time."""
    total = sum(ms for _, ms in spent.values())
    rows = sorted(spent.items(), key=lambda item: -item[1][1])
    lines = ["| kernel | launches | ms | % |", "|---|---:|---:|---:|"]
    lines += [f"| {kernel} | {count} | {ms:.2f} | {100 * ms / total:.1f} |" for kernel, (count, ms) in rows[:40]]
    lines.append(f"| all | {sum(count for count, _ in spent.values())} | {total:.2f} | 100 |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
