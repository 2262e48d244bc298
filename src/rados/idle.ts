/**
 * Adds a function to a list of those to be called once, and resolves true when it is called; false after `patienceMs` (Infinity: never).
 * Only a limited wait keeps the process alive.
 */
export function untilCalled(list: (() => void)[], patienceMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout | undefined;
    const end = (): void => {
      clearTimeout(timer);
      resolve(true);
    };
    list.push(end);
    if (patienceMs === Number.POSITIVE_INFINITY) return;
    timer = setTimeout(() => {
      list.splice(list.indexOf(end), 1);
      resolve(false);
    }, patienceMs);
  });
}
