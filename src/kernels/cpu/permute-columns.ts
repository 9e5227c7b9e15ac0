// Launch description of permuteColumns.
import { singleKernel } from './cpu-kernel.ts';

export const permuteColumns = singleKernel('permuteColumns', 'permute_columns');
