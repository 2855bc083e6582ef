/** The part of ip6addr 0.2 that tsnet uses; the package has no types of its own. */
declare module "ip6addr" {
  interface Addr {
    toString(options?: { format: "v4" | "v6" | "auto"; zeroElide?: boolean; zeroPad?: boolean }): string;
  }
  interface Cidr {
    /** The network address. */
    address(): Addr;
  }
  const ip6addr: {
    parse(input: string): Addr;
    createCIDR(address: string, length: number): Cidr;
  };
  export default ip6addr;
}
