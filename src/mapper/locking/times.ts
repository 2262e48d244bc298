/** Local time for people, `2026-03-01 10:04`, with seconds where they matter. @param since ms since the epoch */
export function clockTime(since: number, seconds = false): string {
  const date = new Date(since);
  const two = (n: number): string => String(n).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const minute = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return `${day} ${minute}${seconds ? `:${two(date.getSeconds())}` : ''}`;
}
