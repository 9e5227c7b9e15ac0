// From a caller's parameters to the numbers an engine runs: defaults filled in, everything checked against the model.
import type { EngineInfo, EngineRequest } from '../engine/protocol.ts';
import type { SamplingParams } from '../engine/sampling-params.ts';
import { NeedletailError } from '../util/errors.ts';
import type { GenerateParams } from './generate-params.ts';

/** What holds where a request says nothing: from generation_config.json, or the usual neutral values. */
export interface GenerationDefaults {
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** null: what the context leaves. */
  readonly maxTokens: number | null;
  /** The model's end tokens; often several. */
  readonly eosTokenIds: readonly number[];
}

export const NEUTRAL_DEFAULTS: GenerationDefaults = {
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  maxTokens: null,
  eosTokenIds: [],
};

/** How the engine's tokens become text. */
export interface OutputOptions {
  readonly stop: readonly string[];
  readonly includeStopStrInOutput: boolean;
  readonly skipSpecialTokens: boolean;
  /** Stop strings do not count before so many tokens. */
  readonly minTokens: number;
  /** Text that each choice begins with; null: none. */
  readonly echo: string | null;
  /** k: each choice's log-probabilities begin with the prompt's and the k most likely ones'. */
  readonly echoLogprobs: number | null;
  /** The same for the request's own report of the prompt. */
  readonly promptLogprobs: number | null;
  /** Stop tokens that the caller named, for the stop reason. */
  readonly stopTokenIds: readonly number[];
}

/** A request that has passed every check: what the engine gets and what to do with its answer. */
export interface GenerationJob {
  readonly request: EngineRequest;
  readonly output: OutputOptions;
}

export interface ModelLimits {
  readonly info: EngineInfo;
  readonly defaults: GenerationDefaults;
  readonly hasPriorities: boolean;
}

export interface ResolvedPrompt {
  readonly tokenIds: Int32Array;
  /** The prompt as text, for `echo`. */
  readonly text: string;
}

/** Temperatures below this are greedy: dividing logits by less overflows float32, and the limit is the same. */
const MIN_TEMPERATURE = 1e-5;

/** @throws NeedletailError `invalid_request` or `context_length_exceeded`, naming the parameter. */
export function resolveJob(
  requestId: string,
  prompt: ResolvedPrompt,
  params: GenerateParams,
  limits: ModelLimits,
  unseeded: () => bigint,
): GenerationJob {
  checkTokenIds(prompt.tokenIds, limits.info.vocabSize, 'prompt');
  const numPromptTokens = prompt.tokenIds.length;
  const maxTokens = resolveMaxTokens(numPromptTokens, params.maxTokens, limits);
  const echoLogprobs = params.echo === true ? (params.logprobs ?? null) : null;
  return {
    request: {
      requestId,
      promptTokenIds: prompt.tokenIds,
      sampling: resolveSampling(params, maxTokens, limits, unseeded),
      priority: resolvePriority(params.priority ?? 0, limits),
      timeoutMs: params.timeoutMs ?? null,
      cacheSalt: params.cacheSalt ?? '',
    },
    output: {
      stop: stopStrings(params.stop),
      includeStopStrInOutput: params.includeStopStrInOutput ?? false,
      skipSpecialTokens: params.skipSpecialTokens ?? true,
      minTokens: params.minTokens ?? 0,
      echo: params.echo === true ? prompt.text : null,
      echoLogprobs,
      promptLogprobs: params.promptLogprobs ?? null,
      stopTokenIds: params.stopTokenIds ?? [],
    },
  };
}

function resolveSampling(
  params: GenerateParams,
  maxTokens: number,
  limits: ModelLimits,
  unseeded: () => bigint,
): SamplingParams {
  const { defaults, info } = limits;
  const temperature = params.temperature ?? defaults.temperature;
  return {
    temperature: temperature < MIN_TEMPERATURE ? 0 : temperature,
    topK: Math.min(Math.max(params.topK ?? defaults.topK, 0), info.vocabSize),
    topP: params.topP ?? defaults.topP,
    minP: params.minP ?? defaults.minP,
    repetitionPenalty: params.repetitionPenalty ?? defaults.repetitionPenalty,
    presencePenalty: params.presencePenalty ?? 0,
    frequencyPenalty: params.frequencyPenalty ?? 0,
    logitBias: resolveLogitBias(params.logitBias ?? {}, info.vocabSize),
    seed: typeof params.seed === 'number' ? BigInt.asUintN(64, BigInt(params.seed)) : unseeded(),
    n: params.n ?? 1,
    maxTokens,
    minTokens: resolveMinTokens(params.minTokens ?? 0, maxTokens),
    stopTokenIds: resolveStopTokenIds(params, limits),
    logprobs: params.logprobs ?? null,
    promptLogprobs: largerOrNull(params.promptLogprobs, params.echo === true ? params.logprobs : null),
  };
}

/** A prompt is never cut: what does not fit is refused with the counts. */
function resolveMaxTokens(
  numPromptTokens: number,
  asked: number | null | undefined,
  limits: ModelLimits,
): number {
  const { maxModelLen } = limits.info;
  if (numPromptTokens === 0) {
    throw new NeedletailError('invalid_request', 'the prompt has no tokens; send at least one', {
      param: 'prompt',
    });
  }
  const room = maxModelLen - numPromptTokens;
  if (room < (asked === 0 ? 0 : 1)) throw tooLong(maxModelLen, numPromptTokens, asked ?? null);
  if (asked === null || asked === undefined) return Math.min(limits.defaults.maxTokens ?? room, room);
  if (asked > room) throw tooLong(maxModelLen, numPromptTokens, asked);
  return asked;
}

function tooLong(maxModelLen: number, numPromptTokens: number, asked: number | null): NeedletailError {
  const wanted =
    asked === null
      ? `the prompt has ${numPromptTokens}, which leaves no room for output`
      : `${numPromptTokens + asked} were asked for (${numPromptTokens} in the prompt, ${asked} to generate)`;
  return new NeedletailError(
    'context_length_exceeded',
    `the context holds ${maxModelLen} tokens, but ${wanted}; shorten the prompt or lower the number of output tokens`,
    { param: 'prompt' },
  );
}

function resolveMinTokens(minTokens: number, maxTokens: number): number {
  if (minTokens <= maxTokens) return minTokens;
  throw new NeedletailError(
    'invalid_request',
    `at least ${minTokens} output tokens were asked for, but at most ${maxTokens} may be generated`,
    { param: 'minTokens' },
  );
}

function resolveStopTokenIds(params: GenerateParams, limits: ModelLimits): number[] {
  const own = params.stopTokenIds ?? [];
  checkTokenIds(own, limits.info.vocabSize, 'stopTokenIds');
  const eos = params.ignoreEos === true ? [] : limits.defaults.eosTokenIds;
  return [...new Set([...eos, ...own])];
}

function resolveLogitBias(biases: Readonly<Record<string, number>>, vocabSize: number) {
  const entries = Object.entries(biases).map(([id, bias]) => ({ tokenId: Number(id), bias }));
  checkTokenIds(
    entries.map((entry) => entry.tokenId),
    vocabSize,
    'logitBias',
  );
  return entries;
}

function resolvePriority(priority: number, limits: ModelLimits): number {
  if (priority === 0 || limits.hasPriorities) return priority;
  throw new NeedletailError(
    'invalid_request',
    'priorities count only under the priority policy; start the engine with --scheduling-policy priority',
    { param: 'priority' },
  );
}

function largerOrNull(a: number | null | undefined, b: number | null | undefined): number | null {
  const larger = Math.max(a ?? -1, b ?? -1);
  return larger < 0 ? null : larger;
}

function stopStrings(stop: GenerateParams['stop']): readonly string[] {
  if (stop === null || stop === undefined) return [];
  return typeof stop === 'string' ? [stop] : stop;
}

export function checkTokenIds(ids: ArrayLike<number>, vocabSize: number, param: string): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (id >= 0 && id < vocabSize) continue;
    const message = `token id ${id} is out of range: the vocabulary has the ids 0 to ${vocabSize - 1}`;
    throw new NeedletailError('invalid_request', message, { param });
  }
}
