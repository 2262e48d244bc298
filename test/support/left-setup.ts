/** vitest's globalSetup: removes what earlier runs left that were killed. */
import { removeLeft } from './own.js';

export default function setup(): void {
  removeLeft();
}
