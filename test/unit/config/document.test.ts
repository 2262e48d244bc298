import fs from 'node:fs';
import { expect, test } from 'vitest';
import { renderDocument } from '../../../src/config/document.js';
import * as schema from '../../../src/config/schema.js';

test('docs/configuration.md is what the schema says (npm run build && node scripts/configuration-docs.mjs)', () => {
  expect(fs.readFileSync(new URL('../../../docs/configuration.md', import.meta.url), 'utf8')).toBe(renderDocument());
});

test('the document has every setting', () => {
  const text = renderDocument();
  const groups = [schema.archipelago, schema.xseg, schema.peers, schema.role, ...Object.values(schema.byType)];
  for (const group of groups) {
    for (const setting of Object.values(group)) expect(text).toContain(`| \`${setting.key}\` |`);
  }
});
