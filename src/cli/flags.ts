// The engine's settings as flags, under the names that vLLM gave them.
import { Argument, Option, type Command } from 'commander';
import { fileURLToPath } from 'node:url';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../engine/config.ts';
import {
  ACTIVATION_PRECISIONS,
  KV_CACHE_SETTINGS,
  QUANTIZATIONS,
  type Quantization,
} from '../tensor/precision.ts';
import { byteSize, decimalNumber, wholeNumber } from './parsers.ts';

/** The model that comes with the package. */
export const SHIPPED_MODEL = fileURLToPath(new URL('../../models/llama-tales-8m', import.meta.url));

/** What commander makes of the flags below; those without a default are absent unless given. */
export interface EngineFlags {
  readonly device: EngineConfig['device'];
  readonly dtype: EngineConfig['dtype'] | 'half' | 'float';
  readonly quantization?: Quantization;
  readonly quantizationGroupSize?: number;
  readonly quantizationKeep: readonly string[];
  readonly kvCacheDtype: EngineConfig['kvCacheDType'] | 'fp8_e4m3';
  readonly activationDtype: EngineConfig['activationDType'];
  readonly batchInvariant?: boolean;
  readonly loadFormat: EngineConfig['loadFormat'];
  readonly maxModelLen?: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly blockSize: number;
  readonly kvCacheMemoryBytes?: number;
  readonly memoryUtilization: number;
  readonly enablePrefixCaching: boolean;
  readonly schedulingPolicy: EngineConfig['schedulingPolicy'];
  readonly batchingPolicy: EngineConfig['batchingPolicy'];
  readonly maxNumQueuedReqs: number;
  readonly threads?: number;
  readonly seed: number;
  readonly revision?: string;
  readonly modelDefinition: readonly string[];
}

/** Other spellings of flags, so that command lines made for vLLM work. */
export const FLAG_ALIASES: Readonly<Record<string, string>> = {
  '--gpu-memory-utilization': '--memory-utilization',
  '--num-threads': '--threads',
};

/** Flags that may be given several times without being lists. */
export const REPEATABLE_FLAGS: ReadonlySet<string> = new Set(['model-definition']);

const choice = (flag: string, text: string, choices: readonly string[], value: string) =>
  new Option(flag, text).choices(choices).default(value);

const count = (flag: string, text: string, min: number, max: number, value?: number) =>
  new Option(flag, text).argParser(wholeNumber(min, max)).default(value);

/** Where to run, in which numbers. */
function precisionOptions(defaults: typeof DEFAULT_ENGINE_CONFIG): Option[] {
  return [
    choice('--device <kind>', 'where to run', ['auto', 'cpu', 'cuda', 'reference'], defaults.device),
    choice(
      '--dtype <type>',
      "weights' and KV cache's type; auto: the checkpoint's",
      ['auto', 'float32', 'float', 'bfloat16', 'float16', 'half'],
      defaults.dtype,
    ),
    new Option('--quantization <recipe>', "smaller weights (default: as the checkpoint's are)").choices(
      QUANTIZATIONS,
    ),
    count(
      '--quantization-group-size <columns>',
      'that share a scale (default: 128 of int4, else a row)',
      1,
      65536,
    ),
    new Option(
      '--quantization-keep <pattern...>',
      "weights left in 16 bits: names, * is any text; lm_head and router are their products' roles",
    ).default(defaults.quantizationKeep),
    choice(
      '--kv-cache-dtype <type>',
      "keys' and values' type; auto: the weights'",
      [...KV_CACHE_SETTINGS, 'fp8_e4m3'],
      defaults.kvCacheDType,
    ),
    choice(
      '--activation-dtype <type>',
      '16bit forbids kernels that quantize activations, float32 those that round them',
      ACTIVATION_PRECISIONS,
      defaults.activationDType,
    ),
    new Option('--batch-invariant', 'logits that do not depend on what else is in a step (not on the cpu)'),
  ];
}

/** What to load, and how much of it at once. */
function capacityOptions(defaults: typeof DEFAULT_ENGINE_CONFIG): Option[] {
  return [
    choice('--load-format <format>', 'dummy: random weights', ['auto', 'dummy'], defaults.loadFormat),
    new Option('--revision <name>', 'branch, tag or commit of a hub model'),
    new Option('--model-definition <file>', 'module that exports a model definition; may be repeated')
      .argParser((file: string, others: readonly string[]) => [...others, file])
      .default([], 'the built-in ones alone'),
    count('--max-model-len <tokens>', "context length (default: the checkpoint's, or what fits)", 1, 2 ** 24),
    count('--max-num-seqs <n>', 'sequences in a step at most', 1, 4096, defaults.maxNumSeqs),
    count('--max-num-batched-tokens <n>', 'token budget of a step', 1, 2 ** 20, defaults.maxNumBatchedTokens),
    count('--block-size <tokens>', 'tokens in a KV block', 1, 1024, defaults.blockSize),
    new Option('--kv-cache-memory-bytes <size>', 'KV cache, such as 512M or 2GiB').argParser(byteSize),
    new Option('--memory-utilization <share>', "of the device's memory, if no KV cache size is given")
      .argParser(decimalNumber(0, 1, 'above'))
      .default(defaults.memoryUtilization),
  ];
}

/** How requests are served. */
function servingOptions(defaults: typeof DEFAULT_ENGINE_CONFIG): Option[] {
  return [
    new Option('--enable-prefix-caching', 'reuse KV blocks of equal prefixes').default(
      defaults.enablePrefixCaching,
    ),
    new Option('--no-enable-prefix-caching', 'compute every prompt afresh'),
    choice('--scheduling-policy <policy>', 'who goes first', ['fcfs', 'priority'], defaults.schedulingPolicy),
    choice(
      '--batching-policy <policy>',
      'who joins a batch; the static ones are for comparison',
      ['max-utilization', 'guaranteed-no-evict', 'static', 'static-drop-finished'],
      defaults.batchingPolicy,
    ),
    count('--max-num-queued-reqs <n>', 'waiting requests at most', 1, 2 ** 24, defaults.maxNumQueuedReqs),
    count('--threads <n>', 'threads of the cpu device (default: one per core)', 1, 1024),
    count('--seed <n>', 'for requests that name none', 0, 2 ** 32 - 1, defaults.seed),
  ];
}

/** Adds `[model]` and the engine's flags to a command. */
export function addEngineFlags(command: Command): Command {
  const model = new Argument('[model]', 'folder, plan directory, hub id org/name or preset');
  command.addArgument(model.default(SHIPPED_MODEL, 'the shipped llama-tales-8m'));
  for (const optionsOf of [precisionOptions, capacityOptions, servingOptions])
    for (const option of optionsOf(DEFAULT_ENGINE_CONFIG)) command.addOption(option);
  return command;
}

const DTYPE_SYNONYMS: Readonly<Record<string, EngineConfig['dtype']>> = { half: 'float16', float: 'float32' };

export function engineConfig(model: string, flags: EngineFlags): EngineConfig {
  return {
    model: flags.revision === undefined ? model : `${model}@${flags.revision}`,
    modelDefinitions: flags.modelDefinition,
    device: flags.device,
    dtype: DTYPE_SYNONYMS[flags.dtype] ?? (flags.dtype as EngineConfig['dtype']),
    quantization: flags.quantization ?? null,
    quantizationGroupSize: flags.quantizationGroupSize ?? null,
    quantizationKeep: flags.quantizationKeep,
    kvCacheDType: flags.kvCacheDtype === 'fp8_e4m3' ? 'fp8' : flags.kvCacheDtype,
    activationDType: flags.activationDtype,
    batchInvariant: flags.batchInvariant ?? false,
    loadFormat: flags.loadFormat,
    maxModelLen: flags.maxModelLen ?? null,
    maxNumSeqs: flags.maxNumSeqs,
    maxNumBatchedTokens: flags.maxNumBatchedTokens,
    blockSize: flags.blockSize,
    kvCacheMemoryBytes: flags.kvCacheMemoryBytes ?? null,
    memoryUtilization: flags.memoryUtilization,
    enablePrefixCaching: flags.enablePrefixCaching,
    schedulingPolicy: flags.schedulingPolicy,
    batchingPolicy: flags.batchingPolicy,
    maxNumQueuedReqs: flags.maxNumQueuedReqs,
    numThreads: flags.threads ?? null,
    seed: flags.seed,
  };
}
