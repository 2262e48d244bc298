/** A port of a tool's own on the node's segment. Loaded by commands that need one: it loads a native library. */
import type { Config } from '../../config/types.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { type Port, Segment } from '../../xseg/index.js';
import { CliError } from './exit.js';

/**
 * Joins the node's segment and binds a dynamic port.
 * @param name what reports call the port, e.g. `vlmc`
 * @throws CliError saying what to do when the node does not run
 */
export function joinSegment(config: Config, name: string): { segment: Segment; port: Port } {
  let segment: Segment;
  try {
    segment = Segment.join(config.xseg.spec);
  } catch (error) {
    const errno = errnoOf(error);
    const why =
      errno === errnos.ENOENT
        ? `the node is not running: there is no segment ${config.xseg.name}; start it with archipelago start`
        : `cannot reach the node: ${messageOf(error)}`;
    throw new CliError(why, errno, { cause: error });
  }
  try {
    return { segment, port: segment.bind('dynamic', { name }) };
  } catch (error) {
    segment.close();
    throw new CliError(`cannot reach the node: ${messageOf(error)}`, errnoOf(error), { cause: error });
  }
}
