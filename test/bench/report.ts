import { type Comparison, isTime, judge } from "./comparison.ts";
import type { Summary } from "./statistics.ts";

/**
 * The comparisons as a Markdown table.
 *
 * @param engine what the engine's own driver is called
 */
export function comparisonTable(comparisons: readonly Comparison[], engine: string): string {
  const head = ["", "unit", "tsnet", engine, "ratio", "goal", "", "reference", "n"];
  const rows = comparisons.map((comparison) => {
    const { tsnet, engine, ratio, interval, outcome } = judge(comparison);
    return [
      comparison.what,
      comparison.unit,
      spread(tsnet),
      spread(engine),
      `${ratio.toFixed(2)} (${interval.map((end) => end.toFixed(2)).join("–")})`,
      `${isTime(comparison) ? "≤" : "≥"} ${comparison.goal.toFixed(1)}`,
      outcome,
      comparison.reference?.toString() ?? "",
      String(tsnet.n),
    ];
  });
  return table(head, rows);
}

/** A Markdown table whose columns are aligned for the terminal as well. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    `| ${widths.map((width, column) => (cells[column] ?? "").padEnd(width)).join(" | ")} |`;
  const rule = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`;
  return [line(head), rule, ...rows.map(line)].join("\n");
}

function spread({ median, q1, q3 }: Summary): string {
  return `${round(median)} (${round(q1)}–${round(q3)})`;
}

/** Three digits that count. */
function round(value: number): string {
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}
