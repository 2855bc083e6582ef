/** Rows under a heading, columns aligned, as the engine's own client prints them. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [heading, ...rows];
  const widths = heading.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  const line = (row: readonly string[]) =>
    row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("   ");
  return all.map((row) => `${line(row).trimEnd()}\n`).join("");
}
