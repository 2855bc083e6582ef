import * as z from "zod";

/** Go's strconv.ParseBool, which the engine's own drivers read their options with. */
export const flag = z
  .enum(["true", "True", "TRUE", "t", "T", "1", "false", "False", "FALSE", "f", "F", "0"], {
    error: ({ input }) => `is "${String(input)}", but must be true or false`,
  })
  .transform((text) => /^[tT1]/.test(text));

/** An option of the engine's that one value of leaves as if it had not been given, as there. */
export const unless = <T extends z.ZodType<unknown, string | undefined>>(nothing: string, schema: T) =>
  z
    .string()
    .transform((text) => (text === nothing ? undefined : text))
    .pipe(schema);

/** The name of a link or the start of one (dev_valid_name, net/core/dev.c). */
export const linkName = (longest: number) =>
  z.string().refine((text) => /^[^\s/:.%][^\s/:%]*$/.test(text) && Buffer.byteLength(text) <= longest, {
    error: ({ input }) =>
      `is "${String(input)}", but must be a link name of 1 to ${String(longest)} characters`,
  });

/**
 * The name of a link that rules are about, in which whatever iptables or firewalld reads otherwise has no place. Two
 * names stand for something else in the kernel's settings.
 */
export const ruledLinkName = z.string().regex(/^(?!(?:all|default)$)\w[\w.-]{0,14}$/, {
  error: ({ input }) =>
    `is "${String(input)}", but must be a link name of 1 to 15 characters: a letter, digit or _, then also . and -; not all or default`,
});

/** How interfaces are called in the container; a number of up to four digits follows. */
export const interfacePrefix = unless("", linkName(11).default("eth")).default("eth");

/** The largest packet of a link. */
export const mtu = unless(
  "0",
  z
    .string()
    .refine((text) => /^\d{1,5}$/.test(text) && Number(text) >= 68 && Number(text) <= 65_535, {
      error: ({ input }) => `is "${String(input)}", but must be a number of bytes from 68 to 65535`,
    })
    .transform(Number)
    .optional(),
).optional();
