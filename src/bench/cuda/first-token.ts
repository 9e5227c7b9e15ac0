// A process of its own: loads a preset with random weights, draws one token, says when what was done.
//   node dist/bench/cuda/first-token.js PRESET DTYPE
import type { FloatDType } from '../../tensor/dtype.ts';
import { runLatency } from '../offline.ts';
import { withRandomPrompts } from '../workload.ts';
import { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { loadPresetEngine } from './model.ts';

const [, , preset = '', dtype = ''] = process.argv;
const device = await CudaDevice.open();
const openMs = performance.now();
const engine = await loadPresetEngine(
  device,
  { preset, dtype: dtype as FloatDType, quantization: null, kvCacheDType: 'auto' },
  { maxModelLen: 4096, maxNumBatchedTokens: 2048 },
);
const loadedMs = performance.now();
const lengths = [{ inputTokens: 16, outputTokens: 1 }];
await runLatency(engine, [withRandomPrompts(lengths, engine.info.vocabSize, 0)]);
process.stdout.write(`${JSON.stringify({ openMs, loadedMs, tokenMs: performance.now() })}\n`);
await engine.close();
await device.dispose();
