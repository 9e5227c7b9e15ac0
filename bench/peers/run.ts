// Measures needletail and llama.cpp on the same shapes, in turns, and prints the ratios.
//   npm run bench:peers -- [--models tinyllama-1.1b,models/llama-tales-8m] [--types bfloat16,float16,int8,int4] [--measures pp512,tg128]
//                          [--rounds 3] [--max-tries 3] [--threads 2] [--flash auto|on|off] [--scratch DIR] [--output-json FILE]
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { median } from '../../src/bench/metrics.ts';
import { formatNumber, formatStamp, formatTable, stampRun, writeRecord } from '../../src/bench/report.ts';
import { findPreset } from '../../src/models/presets.ts';
import { CALM, type ComparedType, type ContenderOptions, type MeasureResult } from './contender-options.ts';
import { convertLlama, writeRandomLlama } from './llama-gguf.ts';
import { MEASURES } from './measures.ts';
import { installPeer, PEER_VERSION } from './install-peer.ts';

const { values: flags } = parseArgs({
  options: {
    models: { type: 'string', default: 'tinyllama-1.1b,models/llama-tales-8m' },
    types: { type: 'string', default: 'bfloat16,float16,int8,int4' },
    measures: { type: 'string', default: MEASURES.map((measure) => measure.name).join(',') },
    rounds: { type: 'string', default: '3' },
    'max-tries': { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
    flash: { type: 'string', default: 'auto' },
    scratch: { type: 'string', default: path.join(homedir(), '.cache/needletail/peers') },
    'output-json': { type: 'string', default: '' },
  },
});
const scratch = path.resolve(flags.scratch);
const models = flags.models.split(',');
const types = flags.types.split(',') as ComparedType[];
const measures = flags.measures.split(',');

const GGUF_TYPES = { bfloat16: 'bf16', float16: 'f16', int8: 'q8_0', int4: 'q4_0' } as const;

/** The GGUF file of a model in a type, made on first use. */
async function ggufFile(model: string, comparedType: ComparedType): Promise<string> {
  const type = GGUF_TYPES[comparedType];
  const name = path.basename(model);
  const file = path.join(scratch, 'models', `${name}-${type}.gguf`);
  if (existsSync(file)) return file;
  mkdirSync(path.dirname(file), { recursive: true });
  console.error(`writing ${file}`);
  const preset = findPreset(model);
  if (preset) writeRandomLlama(file, name, preset.config, type);
  else await convertLlama(file, name, model, type);
  return file;
}

interface Result extends MeasureResult {
  readonly model: string;
  readonly contender: string;
  readonly round: number;
}

/** Runs one process to its end; `UV_THREADPOOL_SIZE=1` because llama.cpp is slow where its calls change threads. */
async function runContender(options: ContenderOptions, round: number): Promise<Result[]> {
  const script = path.join(import.meta.dirname, 'contender.ts');
  const child = spawn(process.execPath, ['--import', 'tsx', script, JSON.stringify(options)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...(options.engine === 'llama.cpp' ? { UV_THREADPOOL_SIZE: '1' } : {}) },
  });
  const exited = new Promise<number | null>((resolve) => child.on('close', resolve));
  const contender = `${options.engine} ${options.type}`;
  const results: Result[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    const result = { ...(JSON.parse(line) as MeasureResult), model: options.model, contender, round };
    console.error(
      `${result.model} ${contender} round ${round}: ${result.measure} ${formatNumber(result.tokensPerSecond)} tokens/s` +
        ` (others ${formatNumber(100 * (result.othersCpu ?? NaN))} % of the CPU)`,
    );
    results.push(result);
  }
  if ((await exited) !== 0) throw new Error(`${contender} failed on ${options.model}`);
  return results;
}

async function measureInTurns(): Promise<Result[]> {
  const results: Result[] = [];
  for (const model of models)
    for (let round = 1; round <= Number(flags.rounds); round++)
      for (const type of types)
        for (const engine of ['needletail', 'llama.cpp'] as const) {
          const gguf = await ggufFile(model, type);
          const numThreads = Number(flags.threads);
          const maxTries = Number(flags['max-tries']);
          const flashAttention = flags.flash === 'auto' ? 'auto' : flags.flash === 'on';
          const options = {
            engine,
            model,
            type,
            numThreads,
            measures,
            maxTries,
            scratch,
            gguf,
            flashAttention,
          } as const;
          results.push(...(await runContender(options, round)));
        }
  return results;
}

interface Cell {
  /** Other processes were at work in one of the rounds. */
  readonly isDisturbed: boolean;
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

function cellOf(results: readonly Result[], model: string, contender: string, measure: string): Cell {
  const rounds = results.filter(
    (result) => result.model === model && result.contender === contender && result.measure === measure,
  );
  const values = rounds.map((result) => result.tokensPerSecond);
  return {
    isDisturbed: rounds.some((result) => (result.othersCpu ?? 0) > CALM),
    median: median(values),
    min: Math.min(...values),
    max: Math.max(...values),
  };
}

const SIXTEEN_BITS: readonly ComparedType[] = ['bfloat16', 'float16'];

/** Ours against the peer's: of 16 bits its faster type. */
function ratioOf(results: readonly Result[], model: string, ours: ComparedType, measure: string): number {
  const rivals = SIXTEEN_BITS.includes(ours) ? types.filter((type) => SIXTEEN_BITS.includes(type)) : [ours];
  const peers = rivals.map((type) => cellOf(results, model, `llama.cpp ${type}`, measure).median);
  return cellOf(results, model, `needletail ${ours}`, measure).median / Math.max(...peers);
}

function modelTable(results: readonly Result[], model: string): string {
  const show = ({ median, min, max, isDisturbed }: Cell) =>
    `${formatNumber(median)} (${formatNumber(min)}..${formatNumber(max)})${isDisturbed ? '*' : ''}`;
  const contenders = ['needletail', 'llama.cpp'].flatMap((engine) =>
    types.map((type) => `${engine} ${type}`),
  );
  return formatTable([
    [`${model}, tokens/s`, ...measures],
    ...contenders.map((contender) => [
      contender,
      ...measures.map((measure) => show(cellOf(results, model, contender, measure))),
    ]),
    ...types.map((type) => [
      `needletail ${type} / llama.cpp${SIXTEEN_BITS.includes(type) ? "'s faster" : ''}`,
      ...measures.map((measure) => formatNumber(ratioOf(results, model, type, measure))),
    ]),
  ]);
}

installPeer(scratch);
const stamp = stampRun();
const results = await measureInTurns();
const ratios = models.flatMap((model) =>
  types.map((type) => ({
    ...{ model, type },
    ratios: Object.fromEntries(measures.map((measure) => [measure, ratioOf(results, model, type, measure)])),
  })),
);
console.log(formatStamp(stamp));
console.log(
  `peer     node-llama-cpp ${PEER_VERSION}; ${flags.threads} threads, flash attention ${flags.flash}; median (least..greatest) of ${flags.rounds} rounds`,
);
for (const model of models) console.log(`\n${modelTable(results, model)}`);
if (results.some((result) => (result.othersCpu ?? 0) > CALM))
  console.log(`\n* other processes took over ${100 * CALM} % of the CPU in a round`);
if (flags['output-json'])
  writeRecord(flags['output-json'], { ...stamp, peer: `node-llama-cpp ${PEER_VERSION}`, ratios, results });
