// One process, one engine, one model: runs each measure once undisturbed and prints a JSON line for it. `run.ts` starts it.
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { findPreset } from '../../src/models/presets.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import type { FloatDType } from '../../src/tensor/dtype.ts';
import { openLlamaCpp } from './llama-cpp.ts';
import { MEASURES, tokenSource, type EngineUnderTest, type Measure } from './measures.ts';
import { openNeedletail } from './needletail.ts';

/** What `run.ts` passes as the one argument, in JSON. */
export interface ContenderOptions {
  readonly engine: 'needletail' | 'llama.cpp';
  /** A preset's name, or a checkpoint's folder. */
  readonly model: string;
  readonly dtype: FloatDType;
  readonly numThreads: number;
  readonly measures: readonly string[];
  /** Runs of a measure before a disturbed one is accepted. */
  readonly maxTries: number;
  /** For llama.cpp. */
  readonly scratch: string;
  readonly gguf: string;
}

/** What it prints, one per measure. */
export interface MeasureResult {
  readonly measure: string;
  readonly tokensPerSecond: number;
  /** Share of the machine's CPU time that other processes took meanwhile; null where the system does not say. */
  readonly othersCpu: number | null;
  readonly engine: string;
}

/** Above this share of CPU time for others a run is disturbed. */
const CALM = 0.1;

function loadConfig(model: string): { config: HFConfig; directory: string | null } {
  const preset = findPreset(model);
  if (preset) return { config: preset.config, directory: null };
  const text = readFileSync(path.join(model, 'config.json'), 'utf8');
  return { config: JSON.parse(text) as HFConfig, directory: model };
}

function open(options: ContenderOptions): Promise<EngineUnderTest> {
  if (options.engine === 'llama.cpp') return openLlamaCpp({ ...options, flashAttention: 'auto' });
  return openNeedletail({ ...loadConfig(options.model), dtype: options.dtype }, options.numThreads);
}

/** CPU seconds of the whole machine and of this process since boot and start; null where /proc/stat is absent. */
function cpuSeconds(): { machine: number; own: number } | null {
  let stat: string;
  try {
    stat = readFileSync('/proc/stat', 'utf8');
  } catch {
    return null;
  }
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = stat
    .split('\n', 1)[0]!
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const own = process.cpuUsage();
  const TICKS = 100;
  return {
    machine: (user + nice + system + irq + softirq + steal) / TICKS,
    own: (own.user + own.system) / 1e6,
  };
}

interface Timing {
  readonly seconds: number;
  readonly othersCpu: number | null;
}

async function timed(run: () => Promise<void>): Promise<Timing> {
  const before = cpuSeconds();
  const start = performance.now();
  await run();
  const seconds = (performance.now() - start) / 1000;
  const after = cpuSeconds();
  if (!before || !after) return { seconds, othersCpu: null };
  const others = after.machine - before.machine - (after.own - before.own);
  return { seconds, othersCpu: Math.max(0, others) / (seconds * cpus().length) };
}

/** The first calm run, or the calmest of `maxTries`. */
async function calmest(run: () => Promise<void>, maxTries: number): Promise<Timing> {
  let best = await timed(run);
  for (let i = 1; i < maxTries && (best.othersCpu ?? 0) > CALM; i++) {
    const next = await timed(run);
    if (next.othersCpu! < best.othersCpu!) best = next;
  }
  return best;
}

async function measure(
  engine: EngineUnderTest,
  what: Measure,
  vocabSize: number,
  maxTries: number,
): Promise<Timing> {
  const stepper = await engine.open(what.shape);
  const tokenIds = tokenSource(vocabSize);
  try {
    await what.prepare(stepper, tokenIds);
    return await calmest(() => what.run(stepper, tokenIds), maxTries);
  } finally {
    await stepper.close();
  }
}

const options = JSON.parse(process.argv[2]!) as ContenderOptions;
const vocabSize = Number(loadConfig(options.model).config['vocab_size']);
const engine = await open(options);
for (const what of MEASURES.filter(({ name }) => options.measures.includes(name))) {
  const { seconds, othersCpu } = await measure(engine, what, vocabSize, options.maxTries);
  const result: MeasureResult = {
    measure: what.name,
    tokensPerSecond: what.tokens / seconds,
    othersCpu,
    engine: engine.description,
  };
  console.log(JSON.stringify(result));
}
await engine.close();
