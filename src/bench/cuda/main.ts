// The figures of one GPU with their roofs and rivals, as a table and as JSON; needs dist/ and Node alone.
//   npm run build && node dist/bench/cuda/main.js [--rows decode,prefill,offline-128-128] [--seconds 60] [--dtype bfloat16]
//     [--latency-model llama-2-7b] [--throughput-model llama-3.1-8b] [--trace AzureLLMInferenceTrace_conv.csv]
//     [--quantization fp8] [--kv-cache-dtype fp8] [--max-num-seqs N] [--commit NAME] [--output-json FILE]
// A model is a preset's name, or the path of a config.json, whose quantization_config says how random codes are scaled.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { driverVersion } from '../../ffi/cuda/nvml.ts';
import { isFloatDType, type FloatDType } from '../../tensor/dtype.ts';
import { KV_CACHE_SETTINGS, QUANTIZATIONS } from '../../tensor/precision.ts';
import { isNeedletailError } from '../../util/errors.ts';
import { formatStamp, stampRun, writeRecord } from '../report.ts';
import { parseTrace } from '../workload.ts';
import { formatFigures, type Figure } from './figure.ts';
import { measureBusy } from './busy.ts';
import { measureColdCompile, measureFirstToken } from './starting.ts';
import { measureLoading } from './loading.ts';
import { measureRoofs, type Roofs } from './roofs.ts';
import { measureSteps, type StepRow } from './steps.ts';
import { rivalOf } from './rivals.ts';
import { measureInFlight, measureOffline, type ChatRow, type OfflineRow } from './throughput.ts';

const DECODE_BATCHES = [1, 8, 32, 64, 128];
const STEP_SHAPES = [
  ...DECODE_BATCHES.map((numSeqs) => ({ name: `decode-${numSeqs}`, numSeqs, numTokens: 1 })),
  { name: 'prefill-1024', numSeqs: 1, numTokens: 1024 },
  { name: 'prefill-2048', numSeqs: 1, numTokens: 2048 },
];

const OFFLINE_SHAPES = [
  { name: 'offline-128-128', inputLen: 128, outputLen: 128, maxNumSeqs: 1024 },
  { name: 'offline-128-2048', inputLen: 128, outputLen: 2048, maxNumSeqs: 512 },
  { name: 'offline-1000-1000', inputLen: 1000, outputLen: 1000, maxNumSeqs: 512 },
  { name: 'offline-2048-128', inputLen: 2048, outputLen: 128, maxNumSeqs: 128 },
];

/** Both need `--trace`. The first compares as the cpu device's benchmark does. */
const CHAT_ROWS: readonly ChatRow[] = [
  { name: 'in-flight-outputs', inputLen: 16 },
  { name: 'in-flight-chats', inputLen: null },
];

/** Whoever measures reads one line, not a stack. */
function refuse(message: string): never {
  process.stderr.write(`error: ${message}\n`);
  process.exit(1);
}

const OPTIONS = {
  rows: { type: 'string', default: '' },
  seconds: { type: 'string', default: '240' },
  dtype: { type: 'string', default: 'bfloat16' },
  'latency-model': { type: 'string', default: 'llama-2-7b' },
  'throughput-model': { type: 'string', default: 'llama-3.1-8b' },
  'max-num-seqs': { type: 'string' },
  quantization: { type: 'string' },
  'kv-cache-dtype': { type: 'string', default: 'auto' },
  trace: { type: 'string' },
  commit: { type: 'string' },
  'output-json': { type: 'string' },
} as const;

function parseFlags() {
  try {
    return parseArgs({ options: OPTIONS }).values;
  } catch (error) {
    return refuse((error as Error).message);
  }
}

const flags = parseFlags();

const patterns = flags.rows.split(',').filter((name) => name !== '');

/** `decode` selects every row that begins so. */
function isNamed(name: string, word: string): boolean {
  return name === word || name.startsWith(`${word}-`);
}

function isSelected(name: string): boolean {
  return patterns.length === 0 || patterns.some((word) => isNamed(name, word));
}

function checkRows(): void {
  const shapes = [...STEP_SHAPES, ...OFFLINE_SHAPES, ...CHAT_ROWS].map(({ name }) => name);
  const names = ['cold-compile', 'first-token', ...shapes, 'busy', 'load'];
  const unknown = patterns.find((word) => !names.some((name) => isNamed(name, word)));
  if (unknown !== undefined) refuse(`--rows: there is no ${unknown}, but ${names.join(', ')}`);
  const chats = CHAT_ROWS.map(({ name }) => name).find((name) => patterns.length > 0 && isSelected(name));
  if (chats !== undefined && flags.trace === undefined) refuse(`--rows: ${chats} wants a --trace`);
}

function parseCount(flag: 'seconds' | 'max-num-seqs', text: string): number {
  return Number(text) > 0 ? Number(text) : refuse(`--${flag} is ${text}, not a number above 0`);
}

function parseDType(name: string): FloatDType {
  if (isFloatDType(name)) return name;
  return refuse(`--dtype is ${name}, not float32, bfloat16 or float16`);
}

function oneOf<T extends string>(flag: 'quantization' | 'kv-cache-dtype', choices: readonly T[]): T {
  const choice = choices.find((name) => name === flags[flag]);
  if (choice !== undefined) return choice;
  return refuse(`--${flag} is ${flags[flag]}, not one of ${choices.join(', ')}`);
}

const precision = {
  dtype: parseDType(flags.dtype),
  quantization: flags.quantization === undefined ? null : oneOf('quantization', QUANTIZATIONS),
  kvCacheDType: oneOf('kv-cache-dtype', KV_CACHE_SETTINGS),
};
const latencyModel = { preset: flags['latency-model'], ...precision };
const throughputModel = { preset: flags['throughput-model'], ...precision };

const STEP_ROWS: readonly StepRow[] = STEP_SHAPES.map((shape) => ({
  ...shape,
  rival: rivalOf(latencyModel, shape.name),
}));
const maxSeconds = parseCount('seconds', flags.seconds);
const numSeqs = flags['max-num-seqs'];
const maxNumSeqs = numSeqs === undefined ? {} : { maxNumSeqs: parseCount('max-num-seqs', numSeqs) };
const OFFLINE_ROWS: readonly OfflineRow[] = OFFLINE_SHAPES.map((shape) => ({
  ...shape,
  ...maxNumSeqs,
  rival: rivalOf(throughputModel, shape.name),
}));

/** Of rows that need the GPU to themselves, since they start processes of their own. */
async function measureProcesses(): Promise<Figure[]> {
  const figures: Figure[] = [];
  if (isSelected('cold-compile')) figures.push(await measureColdCompile(throughputModel, 'cold-compile'));
  if (isSelected('first-token')) figures.push(await measureFirstToken(throughputModel, 'first-token'));
  return figures;
}

/** One list of figures per model that is loaded. */
async function* measureHere(device: CudaDevice, roofs: Roofs): AsyncGenerator<Figure[]> {
  const steps = STEP_ROWS.filter(({ name }) => isSelected(name));
  if (steps.length > 0) yield await measureSteps(device, latencyModel, steps, roofs);
  for (const row of OFFLINE_ROWS.filter(({ name }) => isSelected(name))) {
    yield [await measureOffline(device, throughputModel, row, { roofs, maxSeconds })];
  }
  if (isSelected('busy')) yield [await measureBusy(device, throughputModel, 'busy')];
  for (const row of CHAT_ROWS.filter(({ name }) => isSelected(name))) {
    if (flags.trace === undefined) continue;
    const trace = parseTrace(readFileSync(flags.trace, 'utf8'));
    yield [await measureInFlight(device, throughputModel, row, trace)];
  }
  if (isSelected('load')) yield [await measureLoading(device, throughputModel, 'load', roofs)];
}

const print = (text: string): boolean => process.stdout.write(`${text}\n`);

checkRows();
const stamp = stampRun();
const figures = await measureProcesses();
const device = await CudaDevice.open().catch((error: unknown) => {
  if (isNeedletailError(error)) return refuse(error.message);
  throw error;
});
const roofs = measureRoofs(device);
const gpu = { name: device.description, driver: driverVersion(), cublasLt: device.runtime.cublasLt.version };
const record = { ...stamp, commit: flags.commit ?? stamp.commit, gpu, roofs };
for await (const more of measureHere(device, roofs)) {
  figures.push(...more);
  process.stderr.write(`${formatFigures(more)}\n`);
  if (flags['output-json'] !== undefined) writeRecord(flags['output-json'], { ...record, figures });
}
await device.dispose();

print(formatStamp(record));
print(`gpu      ${gpu.name}; driver ${gpu.driver ?? 'unknown'}, cuBLASLt ${gpu.cublasLt}`);
print(
  `roofs    copy ${(roofs.copyBytesPerSecond / 1e12).toFixed(2)} TB/s, read ${(roofs.readBytesPerSecond / 1e12).toFixed(2)} TB/s, ` +
    `bf16 product ${(roofs.matmulFlops / 1e12).toFixed(0)} TFLOP/s, pinned host memory ${(roofs.pinnedBytesPerSecond / 1e9).toFixed(1)} GB/s\n`,
);
print(formatFigures(figures));
if (flags['output-json'] !== undefined) writeRecord(flags['output-json'], { ...record, figures });
