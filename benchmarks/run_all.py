"""Run every benchmark, one process each, and write benchmarks/results/<device>/: a JSON each, and the tables.

It needs no network. A benchmark that fails is named at the end; the others still run.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks import harness, recipe
from common import cli

BENCHMARKS = [(script, options) for _, script, options, _ in recipe.STAGES] + [
    ("generator_step", ["--size", "64"]),
    ("generator_step", ["--size", "128"]),
    ("image_loading", []),
]


def stage_table(results: list[dict]) -> list[str]:
    """Markdown: one line for every variant of every benchmark."""
    lines = [
        "| stage | variant | items/s | × plain | waiting | host MB | GPU MB | of peak | switch: gain |",
        "|" + "---|" * 9,
    ]
    for result in results:
        for row in result["rows"]:
            lines.append(
                f"| {result['stage']} | {row['name']} | {row['items_per_s']:.4g} {result['unit']}s "
                f"| {_cell(row, 'ratio', '.2f')} | {row['waiting']:.0%} | {row['host_mb']:.0f} "
                f"| {row['device_mb']:.0f} | {_cell(row, 'of_peak', '.0%')} "
                f"| {row['switch'] + ': ' if row['switch'] else ''}{_cell(row, 'gain', '.2f')} |"
            )
        lines += [f"| {result['stage']} | not measured: {sentence} |" + " |" * 7 for sentence in result["skipped"]]
    return lines


def _cell(row, key, form) -> str:
    return format(row[key], form) if key in row else ""


def write_table(folder) -> None:
    """`folder`/table.md of the JSON files that are there."""
    results = [
        harness.read(path)
        for script, options in BENCHMARKS
        if (path := recipe.file_of(folder, script, options)).is_file()
    ]
    if not results:
        raise cli.UserError("no benchmark could be run; see the errors above")
    first = results[0]
    lines = [
        f"{first['device']}, {first['cpu']}, {first['cores']} cores, {first['threads']} threads, torch "
        f"{first['torch']}, Python {first['python']}, {first['date']}",
        "",
        *stage_table(results),
    ]
    whole = [(stage, items, recipe.file_of(folder, script, options)) for stage, script, options, items in recipe.STAGES]
    whole = [(stage, items, harness.read(path)) for stage, items, path in whole if path.is_file()]
    lines += ["", *recipe.table(whole)[0], ""]
    from common.files import write_text

    write_text(folder / "table.md", "\n".join(lines))


def main(argv=None) -> int:
    _, _, folder, common = recipe.started(__doc__, __file__, argv)
    failed = []
    for script, options in BENCHMARKS:
        command = [
            sys.executable,
            str(Path(__file__).with_name(f"{script}.py")),
            *options,
            *common,
            "--json",
            str(recipe.file_of(folder, script, options)),
        ]
        if subprocess.run(command).returncode:
            failed.append(" ".join([script, *options]))
    write_table(folder)
    print(f"\n{folder / 'table.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
