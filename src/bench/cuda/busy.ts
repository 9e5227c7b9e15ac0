// Share of the time in which a decoding GPU works, by device events: what of the host shows.
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { StepTimer, type StepTimes } from '../../device/cuda/step-timer.ts';
import { runThroughput } from '../offline.ts';
import { withRandomPrompts } from '../workload.ts';
import { plainFigure, type Figure } from './figure.ts';
import { loadPresetEngine, type ModelChoice } from './model.ts';

const NUM_SEQS = 64;
const INPUT_LEN = 128;
const OUTPUT_LEN = 512;
/** Steps at the start that do not count: prompts, and decodes that are recorded. */
const SETTLING_STEPS = 32;

export async function withTimer<T>(
  device: CudaDevice,
  run: () => Promise<T>,
): Promise<{ readonly result: T; readonly times: StepTimes }> {
  const { runtime } = device;
  const timer = new StepTimer(runtime.driver, runtime.stream);
  runtime.timer = timer;
  try {
    return { result: await run(), times: timer.take() };
  } finally {
    runtime.timer = null;
  }
}

/** What is not between one step's last kernel and the next step's first. */
export function busyShare({ stepMs, gapMs }: StepTimes): number {
  const busyMs = sum(stepMs.slice(SETTLING_STEPS));
  return busyMs / (busyMs + sum(gapMs.slice(SETTLING_STEPS)));
}

export async function measureBusy(device: CudaDevice, model: ModelChoice, name: string): Promise<Figure> {
  const engine = await loadPresetEngine(device, model, {
    maxNumSeqs: NUM_SEQS,
    maxNumBatchedTokens: NUM_SEQS * INPUT_LEN,
    maxModelLen: INPUT_LEN + OUTPUT_LEN,
  });
  try {
    const lengths = Array.from({ length: NUM_SEQS }, () => ({
      inputTokens: INPUT_LEN,
      outputTokens: OUTPUT_LEN,
    }));
    const requests = withRandomPrompts(lengths, engine.info.vocabSize, 0);
    const { result, times } = await withTimer(device, () => runThroughput(engine, requests));
    const gaps = times.gapMs.slice(SETTLING_STEPS);
    const gapUs = (1000 * sum(gaps)) / gaps.length;
    const what = `of the time in kernels, ${NUM_SEQS} sequences; gaps of ${gapUs.toFixed(0)} µs`;
    return plainFigure(name, what, 100 * busyShare(times), '%', { gapUs, result });
  } finally {
    await engine.close();
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
