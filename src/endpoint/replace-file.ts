/** A small file of the endpoint, replaced in one step: a crash leaves the old or the new one. */
import fs from 'node:fs';
import path from 'node:path';

/** @throws Error of the file system; the old content is there then */
export function replaceFile(file: string, text: string): void {
  const temporary = `${file}.new`;
  const fd = fs.openSync(temporary, 'w', 0o660);
  try {
    fs.writeFileSync(fd, text);
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
  fs.renameSync(temporary, file);
  const directory = fs.openSync(path.dirname(file), 'r');
  try {
    fs.fsyncSync(directory);
  } finally {
    fs.closeSync(directory);
  }
}
