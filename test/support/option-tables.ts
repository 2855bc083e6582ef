import type * as z from "zod";
import { OPTIONS } from "../../src/backends/index.ts";
import { Config, flag, variable } from "../../src/config.ts";

/** The README's table of `-o` options, made from the schemas that parse them. */
export function optionsTable(): string {
  const rows = new Map<string, { name: string; of: string[] }>();
  for (const [backend, schema] of Object.entries(OPTIONS))
    for (const [name, option] of Object.entries<z.ZodType>(schema.shape)) {
      const { description = "", default: word } = option.meta() ?? {};
      const fallback = typeof word === "string" ? word : defaultOf(option);
      // Backends share a line where an option means the same.
      const cells = `${description} | ${fallback}`;
      const known = rows.get(`${name} ${cells}`);
      if (known) known.of.push(backend);
      else rows.set(`${name} ${cells}`, { name, of: [backend] });
    }
  const lines = [...rows].map(
    ([key, { name, of }]) => `| \`${name}\` | ${of.join(", ")} | ${key.slice(name.length + 1)} |`,
  );
  return ["| option | backend | meaning | default |", "| --- | --- | --- | --- |", ...lines].join("\n");
}

/** The README's table of the daemon's settings. */
export function settingsTable(): string {
  const rows = Object.entries(Config.shape).map(([name, setting]) => {
    const { description = "" } = setting.meta() ?? {};
    return `| \`${flag(name)}\` | \`${variable(name)}\` | ${description} | ${setting.def.defaultValue} |`;
  });
  return ["| flag | variable | meaning | default |", "| --- | --- | --- | --- |", ...rows].join("\n");
}

function defaultOf(option: z.ZodType): string {
  const { defaultValue } = option.def as unknown as { defaultValue?: string | boolean };
  return defaultValue === undefined ? "" : `\`${defaultValue.toString()}\``;
}
