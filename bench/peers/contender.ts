// One process, one engine, one model: runs each measure once undisturbed and prints a JSON line for it. `run.ts` starts it.
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { median } from '../../src/bench/metrics.ts';
import { findPreset } from '../../src/models/presets.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { CALM, type ContenderOptions, type MeasureResult } from './contender-options.ts';
import { openLlamaCpp } from './llama-cpp.ts';
import { MEASURES, tokenSource, type EngineUnderTest, type Measure } from './measures.ts';
import { openNeedletail } from './needletail.ts';

/** Runs that take less together are repeated, up to `MAX_RUNS` times. */
const SHORT_SECONDS = 2;
const MAX_RUNS = 9;

function loadConfig(model: string): { config: HFConfig; directory: string | null } {
  const preset = findPreset(model);
  if (preset) return { config: preset.config, directory: null };
  const text = readFileSync(path.join(model, 'config.json'), 'utf8');
  return { config: JSON.parse(text) as HFConfig, directory: model };
}

function open(options: ContenderOptions): Promise<EngineUnderTest> {
  if (options.engine === 'llama.cpp') return openLlamaCpp(options);
  return openNeedletail({ ...loadConfig(options.model), type: options.type }, options.numThreads);
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
    .split('\n', 1)[0]
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

/** The median of runs: one if it is long, more of a short one. */
async function timed(run: () => Promise<void>): Promise<Timing> {
  const before = cpuSeconds();
  const startMs = performance.now();
  const elapsed = () => (performance.now() - startMs) / 1000;
  const runs: number[] = [];
  while (runs.length === 0 || (runs.length < MAX_RUNS && elapsed() < SHORT_SECONDS)) {
    const runStart = elapsed();
    await run();
    runs.push(elapsed() - runStart);
  }
  const after = cpuSeconds();
  const seconds = median(runs);
  if (!before || !after) return { seconds, othersCpu: null };
  const others = after.machine - before.machine - (after.own - before.own);
  return { seconds, othersCpu: Math.max(0, others) / (elapsed() * cpus().length) };
}

/** The first calm timing, or the calmest of `maxTries`. */
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

const options = JSON.parse(process.argv[2]) as ContenderOptions;
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
