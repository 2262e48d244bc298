/** What a supervisor tells: the progress of what it does, and how the roles are. Plain data, for JSON. */

/** Progress of a start or stop, in the order things happen. */
export type Progress =
  | { readonly action: 'start' | 'stop'; readonly role: string; readonly state: 'begins' }
  | {
      readonly action: 'start' | 'stop';
      readonly role: string;
      readonly state: 'done' | 'not running' | 'runs already';
    }
  | { readonly action: 'start' | 'stop'; readonly role: string; readonly state: 'failed'; readonly message: string };

export interface RoleStatus {
  readonly name: string;
  readonly type: string;
  /** `silent`: its process lives but it does not answer; `restarting`: it died and is being started again. */
  readonly state: 'running' | 'not running' | 'silent' | 'restarting';
  readonly pid: number | null;
  readonly ports: readonly [first: number, last: number];
  /** ms since the epoch. */
  readonly since: number | null;
  readonly restarts: number;
  readonly lastFailure: string | null;
  /** What the role says of itself. */
  readonly status: object | null;
}

export interface NodeStatus {
  readonly supervisor: number | null;
  readonly segment: string | null;
  readonly roles: readonly RoleStatus[];
}
