// What --batch-invariant costs: steps of Llama-2-7B in bfloat16 with and without it, in one run.
// node --import tsx bench/micro/cuda-batch-invariant.bench.ts
import { formatFigures } from '../../src/bench/cuda/figure.ts';
import { measureRoofs } from '../../src/bench/cuda/roofs.ts';
import { measureSteps } from '../../src/bench/cuda/steps.ts';
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';

const ROWS = [
  { name: 'decode of 1', numSeqs: 1, numTokens: 1, rival: null },
  { name: 'decode of 7', numSeqs: 7, numTokens: 1, rival: null },
  { name: 'decode of 64', numSeqs: 64, numTokens: 1, rival: null },
  { name: 'prompt of 1024', numSeqs: 1, numTokens: 1024, rival: null },
];

const MODEL = { preset: 'llama-2-7b', dtype: 'bfloat16', quantization: null, kvCacheDType: 'auto' } as const;

const device = await CudaDevice.open();
const roofs = measureRoofs(device);
console.log(device.description);
for (const batchInvariant of [false, true]) {
  const model = { ...MODEL, batchInvariant };
  console.log(batchInvariant ? '\nbatch-invariant' : '\nplain');
  console.log(formatFigures(await measureSteps(device, model, ROWS, roofs)));
}
await device.dispose();
