// The door for an engine's settings, before anything is loaded: flags have been checked, a library's caller has not.
import { ACTIVATION_PRECISIONS, KV_CACHE_SETTINGS, QUANTIZATIONS } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import type { EngineConfig } from './config.ts';

const CHOICES = {
  device: ['auto', 'cpu', 'cuda', 'reference'],
  dtype: ['auto', 'float32', 'bfloat16', 'float16'],
  quantization: [null, ...QUANTIZATIONS],
  kvCacheDType: KV_CACHE_SETTINGS,
  activationDType: ACTIVATION_PRECISIONS,
  loadFormat: ['auto', 'dummy'],
  schedulingPolicy: ['fcfs', 'priority'],
  batchingPolicy: ['max-utilization', 'guaranteed-no-evict', 'static', 'static-drop-finished'],
} as const satisfies { [Name in keyof EngineConfig]?: readonly EngineConfig[Name][] };

/** Whole numbers from 1. */
const COUNTS = ['maxNumSeqs', 'maxNumBatchedTokens', 'blockSize', 'maxNumQueuedReqs'] as const;
/** The same, or null for a default. */
const OPTIONAL_COUNTS = ['maxModelLen', 'kvCacheMemoryBytes', 'numThreads', 'quantizationGroupSize'] as const;

const SWITCHES = ['batchInvariant', 'enablePrefixCaching'] as const;

/** Throws `invalid_request` naming the setting. */
export function checkConfig(config: EngineConfig): void {
  for (const [name, choices] of Object.entries(CHOICES)) {
    const value = config[name as keyof typeof CHOICES];
    if (!(choices as readonly unknown[]).includes(value))
      refuse(name, `must be one of ${choices.map(String).join(', ')}, not ${String(value)}`);
  }
  for (const name of COUNTS) checkCount(name, config[name]);
  for (const name of OPTIONAL_COUNTS) if (config[name] !== null) checkCount(name, config[name]);
  for (const name of SWITCHES)
    if (typeof config[name] !== 'boolean') refuse(name, `must be true or false, not ${String(config[name])}`);
  const { memoryUtilization, modelDefinitions, quantizationKeep, seed } = config;
  checkTexts('modelDefinitions', modelDefinitions, 'modules: paths or file: URLs');
  checkTexts('quantizationKeep', quantizationKeep, "patterns on weights' names");
  if (!(memoryUtilization > 0 && memoryUtilization <= 1))
    refuse('memoryUtilization', `must be above 0 and at most 1, not ${memoryUtilization}`);
  if (!Number.isSafeInteger(seed) || seed < 0) refuse('seed', `must be a whole number from 0, not ${seed}`);
  checkTokenBudget(config);
}

/** Each running sequence needs one token of every step; otherwise some would never get on. */
export function checkTokenBudget(config: Pick<EngineConfig, 'maxNumSeqs' | 'maxNumBatchedTokens'>): void {
  if (config.maxNumBatchedTokens < config.maxNumSeqs)
    refuse(
      'maxNumBatchedTokens',
      `(--max-num-batched-tokens ${config.maxNumBatchedTokens}) must be at least maxNumSeqs (--max-num-seqs ${config.maxNumSeqs})`,
    );
}

/** From a library's caller it may be anything. */
function checkTexts(name: string, list: unknown, what: string): void {
  if (!Array.isArray(list) || list.some((item) => typeof item !== 'string'))
    refuse(name, `must be a list of ${what}`);
}

function checkCount(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1) refuse(name, `must be a whole number above 0, not ${value}`);
}

function refuse(param: string, complaint: string): never {
  throw new NeedletailError('invalid_request', `${param} ${complaint}`, { param });
}
