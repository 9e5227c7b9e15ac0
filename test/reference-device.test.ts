// Compiled plans on the reference device: do the compiler's passes and its memory plan keep what models compute?
import { compile } from '../src/compiler/compile.ts';
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import { REFERENCE_KERNELS } from '../src/kernels/reference.ts';
import { findModel } from '../src/models/registry.ts';
import {
  describeReferenceParity,
  PARITY_BLOCK_SIZE,
  PARITY_MAX_MODEL_LEN,
  PARITY_MAX_TOKENS,
  PARITY_NUM_BLOCKS,
} from './support/reference-parity.ts';

describeReferenceParity('reference device', async ({ config, catalog, source }) => {
  const device = new ReferenceDevice();
  const plan = compile({
    definition: findModel(config),
    config,
    tensors: catalog,
    checkpointHash: null,
    target: device.target,
    recipe: { weightDType: 'float32', kvDType: 'float32', activationPrecision: 'float32' },
    limits: { maxNumBatchedTokens: PARITY_MAX_TOKENS, maxNumSeqs: 4, maxNumLogitRows: PARITY_MAX_TOKENS },
    blockSize: PARITY_BLOCK_SIZE,
    maxModelLen: PARITY_MAX_MODEL_LEN,
    kernels: REFERENCE_KERNELS,
  });
  const executable = await device.load(plan, source, {
    numBlocks: plan.kvCacheGroups.map(() => PARITY_NUM_BLOCKS),
  });
  return async (step) => (await executable.run(step)).logits!;
});
