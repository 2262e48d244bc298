/** Endpoints that are no roles of the node. */

/** The name of the port of `archipelago nbd`, by which it is found among those of other commands, which serve nobody. */
export const ATTACHED_ENDPOINT = 'archipelago nbd';
