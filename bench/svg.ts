/** Pieces of SVG documents. No I/O. */

/** Distinguishable without colour vision, and in print; the first is this project's. */
const COLOURS = ['#0b5fa5', '#e69f00', '#7a7a7a', '#56b4a0', '#c46a9f', '#b3b300', '#4b3f8f', '#d55e00'];

export const colour = (index: number): string => COLOURS[index % COLOURS.length];

/** Something drawn, and how much room it takes downwards. */
export interface Drawn {
  readonly svg: string;
  readonly height: number;
}

const escapeXml = (content: string): string =>
  content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

/** @param attributes of the element, as they are written there */
export function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${escapeXml(content)}</text>`;
}

export function rect(x: number, y: number, width: number, height: number, fill: string): string {
  return `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${width.toFixed(1)}" height="${height.toFixed(1)}" fill="${fill}"/>`;
}

/** A straight line. */
export function stroke(x1: number, y1: number, x2: number, y2: number, attributes: string): string {
  const [a, b, c, d] = [x1, y1, x2, y2].map((value) => value.toFixed(1));
  return `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}" ${attributes}/>`;
}

/** The names of what is drawn, in a row. */
export function legend(x: number, y: number, names: readonly string[]): string {
  let at = x;
  return names
    .map((name, index) => {
      const one = rect(at, y - 10, 12, 12, colour(index)) + text(at + 17, y, name);
      at += 44 + name.length * 7.2;
      return one;
    })
    .join('\n');
}

/** @param title what readers of the screen, and pointers that rest on it, are told */
export function document(title: string, width: number, height: number, parts: readonly string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="13">`,
    `<title>${escapeXml(title)}</title>`,
    rect(0, 0, width, height, 'white'),
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}
