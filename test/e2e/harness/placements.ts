/** The placements that every end-to-end behaviour must hold in: the value of PLACEMENT by a name for test titles. */
export const placements = {
  /** What a configuration without PLACEMENT gives. */
  default: null,
  'one process': 'blockerb+blockerm+mapperd+vlmcd+nbd',
  'one process per role': 'blockerb blockerm mapperd vlmcd nbd',
} as const;

export type Placement = keyof typeof placements;

/** The placement of nodes that do not ask for one: ARCHIPELAGO_TEST_PLACEMENT runs the whole suite in another. */
export function usualPlacement(): Placement {
  const wanted = process.env.ARCHIPELAGO_TEST_PLACEMENT ?? 'default';
  if (!(wanted in placements)) {
    throw new Error(
      `ARCHIPELAGO_TEST_PLACEMENT is "${wanted}"; it must be one of: ${Object.keys(placements).join(', ')}`,
    );
  }
  return wanted as Placement;
}
