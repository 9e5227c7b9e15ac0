// Attention over caches of int8 codes against its definition: a few shapes of each kernel that reads codes.
import { it } from 'vitest';
import { checkAttention, CODED_CASES } from '../../../test/support/attention-suite.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

describeKernels('attention over int8 caches', (kernels) => {
  it.each(CODED_CASES)('of %j', (shape) => checkAttention(kernels, shape, 'int8'));
});
