/** Which roles share a process. */
import type { RoleSettings } from './types.js';

/**
 * The default: what a client's request passes through when it reads or writes an own object (endpoint, composer, the
 * composer's blocker) is one process, so that nothing on that way costs a wake-up of another; the mapper and the blocker of
 * maps are another, so that the client connections survive their death.
 */
export function defaultPlacement(roles: readonly RoleSettings[]): string[][] {
  const blockers = new Set(roles.flatMap((role) => (role.type === 'vlmcd' ? [role.blockerPort] : [])));
  const near = (role: RoleSettings): boolean =>
    role.type === 'nbd' || role.type === 'vlmcd' || role.type === 'poold' || blockers.has(role.portnoStart);
  const front = roles.filter(near).map((role) => role.name);
  const back = roles.filter((role) => !near(role)).map((role) => role.name);
  return [front, back].filter((group) => group.length > 0);
}

/**
 * Reads `a+b c`: processes of roles, each brought into start order.
 * @throws Error saying which role is unknown, missing or there twice
 */
export function parsePlacement(words: readonly string[], roles: readonly string[]): string[][] {
  const seen = new Set<string>();
  const groups = words.map((word) => word.split('+'));
  for (const name of groups.flat()) {
    if (!roles.includes(name)) throw new Error(`"${name}" is not one of ROLES (${roles.join(' ')})`);
    if (seen.has(name)) throw new Error(`${name} is there twice; every role of ROLES must be there once`);
    seen.add(name);
  }
  const missing = roles.filter((name) => !seen.has(name));
  if (missing.length > 0) throw new Error(`${missing.join(' ')} is missing; every role of ROLES must be there once`);
  return groups.map((group) => group.toSorted((a, b) => roles.indexOf(a) - roles.indexOf(b)));
}
