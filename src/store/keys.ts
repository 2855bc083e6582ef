/** What the keys of each kind of record begin with. */
export const PREFIX = { network: "network/", endpoint: "endpoint/" } as const;

/** Where a record is kept: `network/ID` or `endpoint/NETWORK/ID`. */
export function keyOf(record: { readonly id: string; readonly network?: string }): string {
  const { id, network } = record;
  return network === undefined ? `${PREFIX.network}${id}` : `${PREFIX.endpoint}${network}/${id}`;
}
