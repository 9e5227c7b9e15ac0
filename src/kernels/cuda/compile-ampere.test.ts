// Every kernel compiled for Ampere, no GPU needed. In a file of its own, so that two chips are compiled for at once.
import { describeKernelCompilation } from '../../../test/support/describe-kernel-compilation.ts';

describeKernelCompilation('A100');
describeKernelCompilation('RTX 30');
