/**
 * The parts of the package that are used. Its index loads generic netlink, nl80211 and WireGuard besides, which takes a
 * tenth of the time of a start.
 */
export { Protocol } from "netlink/dist/constants.js";
export { NetlinkSocket, createNetlink } from "netlink/dist/netlink.js";
