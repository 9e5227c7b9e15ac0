// Every recipe of smaller numbers with every type of KV cache on reference checkpoints, on the reference device.
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import { REFERENCE_KERNELS } from '../src/kernels/reference.ts';
import { describeQuantizedReferences } from './support/quantized-references.ts';

const device = new ReferenceDevice();

describeQuantizedReferences(
  'reference device',
  { target: device.target, kernels: REFERENCE_KERNELS },
  async (plan, source, numBlocks, step) => {
    const executable = await device.load(plan, source, { numBlocks });
    return (await executable.run(step)).logits!;
  },
);
