// Every kernel compiled for Ada and Hopper, no GPU needed.
import { describeKernelCompilation } from '../../../test/support/describe-kernel-compilation.ts';

describeKernelCompilation('RTX 40');
describeKernelCompilation('H100');
