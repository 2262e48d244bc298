// Writes docs/configuration.md from the built schema: npm run build && node scripts/configuration-docs.mjs
import { writeFileSync } from 'node:fs';
import { renderDocument } from '../dist/config/document.js';

writeFileSync(new URL('../docs/configuration.md', import.meta.url), renderDocument());
