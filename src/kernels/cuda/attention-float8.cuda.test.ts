// Attention over caches of float8_e4m3fn codes against its definition: a few shapes of each kernel that reads codes.
import { it } from 'vitest';
import { checkAttention, CODED_CASES } from '../../../test/support/attention-suite.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

describeKernels('attention over float8_e4m3fn caches', (kernels) => {
  it.each(CODED_CASES)('of %j', (shape) => checkAttention(kernels, shape, 'float8_e4m3fn'));
});
