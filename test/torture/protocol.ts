/** What the torture and its client processes say to each other. */

import type { Damage, Runs } from './content.js';
import type { Change } from './model.js';

/** A change of the volumes themselves, through the segment, as vlmc does it. Sizes in bytes. */
export type Control =
  | { readonly kind: 'create'; readonly name: string; readonly size: number; readonly parent?: string }
  | { readonly kind: 'snapshot'; readonly name: string; readonly snapshot: string }
  | { readonly kind: 'resize'; readonly name: string; readonly size: number }
  | { readonly kind: 'rename'; readonly name: string; readonly to: string }
  | { readonly kind: 'remove'; readonly name: string };

/** Sectors of an open volume. */
interface Span {
  readonly volume: string;
  /** Which of its connections. */
  readonly connection: number;
  readonly first: number;
  readonly count: number;
}

export type Work =
  | ({ readonly do: Change; readonly tag: number; readonly fua: boolean } & Span)
  | ({ readonly do: 'read' } & Span)
  | { readonly do: 'flush'; readonly volume: string; readonly connection: number }
  | { readonly do: 'open'; readonly volume: string }
  | { readonly do: 'close'; readonly volume: string }
  | { readonly do: 'control'; readonly control: Control };

export type Asked = Work & { readonly id: number };

export type Outcome =
  /** Done; a read also has what it saw. */
  | { readonly id: number; readonly state: 'done'; readonly runs?: Runs; readonly damage?: Damage | null }
  /** Its connection ended first. */
  | { readonly id: number; readonly state: 'lost' }
  | { readonly id: number; readonly state: 'failed'; readonly errno: number; readonly message: string };

/** All connections of a volume are there again after they were lost. */
export interface Reopened {
  readonly reopened: string;
}

/** Connections of each client process to each volume. */
export const CONNECTIONS = 2;
