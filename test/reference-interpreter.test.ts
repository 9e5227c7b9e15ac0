// The graphs of the models, run by the interpreter alone: are models and ops what transformers computes?
import { floatsOf } from '../src/ir/host-tensor.ts';
import { Interpreter } from '../src/ir/interpret.ts';
import { findModel } from '../src/models/registry.ts';
import {
  describeReferenceParity,
  PARITY_BLOCK_SIZE,
  PARITY_MAX_MODEL_LEN,
  PARITY_NUM_BLOCKS,
} from './support/reference-parity.ts';

describeReferenceParity('graph interpreter', async ({ config, readTensor }) => {
  const graph = findModel(config).buildGraph(config, {
    kvDType: 'float32',
    maxModelLen: PARITY_MAX_MODEL_LEN,
  });
  const sizes = { numBlocks: PARITY_NUM_BLOCKS, blockSize: PARITY_BLOCK_SIZE };
  const interpreter = new Interpreter(graph, { readTensor, ...sizes });
  return async (step) => floatsOf(interpreter.run(step).get('logits')!);
});
