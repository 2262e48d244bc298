/** The placements that every end-to-end behaviour must hold in: the value of PLACEMENT by a name for test titles. */
export const placements = {
  /** What a configuration without PLACEMENT gives. */
  default: null,
  'one process': 'blockerb+blockerm+mapperd+vlmcd+nbd',
  'one process per role': 'blockerb blockerm mapperd vlmcd nbd',
} as const;

export type Placement = keyof typeof placements;
