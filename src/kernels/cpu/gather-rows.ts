// Launch description of gatherRows.
import { singleKernel } from './cpu-kernel.ts';

export const gatherRows = singleKernel('gatherRows', 'gather_rows');
