/** The clock that all processes of a machine share and nobody sets. */

const [seconds, nanoseconds] = process.hrtime();
/** performance.now() counts from the start of the process; hrtime from the machine's (CLOCK_MONOTONIC). Both tick alike. */
const OFFSET = seconds * 1000 + nanoseconds / 1e6 - performance.now();

/** Milliseconds of CLOCK_MONOTONIC: comparable between the processes of one machine, makes no garbage. */
export const monotonicMs = (): number => performance.now() + OFFSET;
