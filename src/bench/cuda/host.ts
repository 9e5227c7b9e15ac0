// What the host costs: gaps between steps, loading, starting, compiling kernels.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { StepTimer } from '../../device/cuda/step-timer.ts';
import { runThroughput } from '../offline.ts';
import { withRandomPrompts } from '../workload.ts';
import { plainFigure, type Figure } from './figure.ts';
import { loadPresetEngine, type ModelChoice } from './model.ts';

const BUSY_SEQS = 64;
const BUSY_INPUT = 128;
const BUSY_OUTPUT = 512;
/** Steps at the start that do not count: prompts, and decodes that are recorded. */
const SETTLING_STEPS = 32;

/** Share of a decoding engine's time in which kernels ran, by device events. */
export async function measureBusy(device: CudaDevice, model: ModelChoice, name: string): Promise<Figure> {
  const engine = await loadPresetEngine(device, model, {
    maxNumSeqs: BUSY_SEQS,
    maxNumBatchedTokens: BUSY_SEQS * BUSY_INPUT,
    maxModelLen: BUSY_INPUT + BUSY_OUTPUT,
  });
  try {
    const lengths = Array.from({ length: BUSY_SEQS }, () => ({
      inputTokens: BUSY_INPUT,
      outputTokens: BUSY_OUTPUT,
    }));
    const requests = withRandomPrompts(lengths, engine.info.vocabSize, 0);
    const timer = new StepTimer(device.runtime.driver, device.runtime.stream);
    device.runtime.timer = timer;
    const result = await runThroughput(engine, requests);
    device.runtime.timer = null;
    const { stepMs, gapMs } = timer.take();
    const busyMs = sum(stepMs.slice(SETTLING_STEPS));
    const idleMs = sum(gapMs.slice(SETTLING_STEPS));
    const gapUs = (1000 * idleMs) / (gapMs.length - SETTLING_STEPS);
    const what = `of the time in kernels, ${BUSY_SEQS} sequences; gaps of ${gapUs.toFixed(0)} µs`;
    const share = (100 * busyMs) / (busyMs + idleMs);
    return plainFigure(name, what, share, '%', { busyMs, idleMs, gapUs, result });
  } finally {
    device.runtime.timer = null;
    await engine.close();
  }
}

/** A child that loads the model and draws one token, from its start to that token. */
export async function measureFirstToken(
  { preset, dtype }: ModelChoice,
  name: string,
  env: NodeJS.ProcessEnv = {},
): Promise<Figure> {
  const program = fileURLToPath(new URL('first-token.js', import.meta.url));
  const startMs = performance.now();
  const child = spawn(process.execPath, [program, preset, dtype], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  let seconds = NaN;
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
    if (text.includes('tokenMs')) seconds = (performance.now() - startMs) / 1000;
  });
  const status = await new Promise((resolve) => child.once('exit', resolve));
  if (status !== 0) throw new Error(`the child that was to draw a token ended with status ${String(status)}`);
  const stages = JSON.parse(text.slice(0, text.indexOf('\n'))) as object;
  return plainFigure(name, 'from process start to the first token, random weights', seconds, 's', stages);
}

/** The same with an empty kernel cache, less the same with a full one: what compiling the kernels takes. */
export async function measureColdCompile(model: ModelChoice, name: string): Promise<Figure> {
  const directory = mkdtempSync(path.join(tmpdir(), 'needletail-kernels-'));
  try {
    const env = { NEEDLETAIL_KERNEL_CACHE: directory };
    const cold = (await measureFirstToken(model, name, env)).value!;
    const warm = (await measureFirstToken(model, name, env)).value!;
    const detail = { coldSeconds: cold, warmSeconds: warm };
    return plainFigure(
      name,
      'longer to the first token with an empty kernel cache',
      cold - warm,
      's',
      detail,
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
