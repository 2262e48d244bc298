/** The suites of curves that `npm run bench` knows. */
import type { CurveSuite } from './curves.js';
import { fairnessSuite } from './fairness.js';
import { scaleSuite } from './scale.js';

export const curveSuites: readonly CurveSuite[] = [fairnessSuite, scaleSuite];
