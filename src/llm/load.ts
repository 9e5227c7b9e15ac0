// Finds everything that an LLM needs: the model's folder, its tokenizer and defaults, and a running engine.
import { stat } from 'node:fs/promises';
import { type GenerationConfig, readGenerationConfig } from '../checkpoint/generation-config.ts';
import { readConfig } from '../checkpoint/hf-config.ts';
import { resolveModel } from '../checkpoint/resolve-model.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../engine/config.ts';
import { InProcessEngine } from '../engine/engine-client.ts';
import { startEngineProcess } from '../engine/process/engine-process.ts';
import type { LoadHooks } from '../engine/load-engine.ts';
import type { EngineClient } from '../engine/protocol.ts';
import { Tokenizer } from '../tokenizer/tokenizer.ts';
import { NeedletailError } from '../util/errors.ts';
import type { LLMParts } from './parts.ts';
import { type GenerationDefaults, NEUTRAL_DEFAULTS } from './resolve.ts';

/** The engine's settings (`EngineConfig`), and what stands before the engine. */
export interface LoadOptions extends Partial<Omit<EngineConfig, 'model'>> {
  /** Folder with tokenizer.json; by default the model's own. */
  readonly tokenizer?: string | undefined;
  /** Load no tokenizer: prompts are token ids and text stays empty. */
  readonly skipTokenizerInit?: boolean | undefined;
  /** Jinja text instead of the checkpoint's chat template. */
  readonly chatTemplate?: string | undefined;
  /** `none`: no sampling defaults from generation_config.json; its end tokens count all the same. */
  readonly generationConfig?: 'auto' | 'none' | undefined;
  /** Run the engine in this process: what kills native code then kills the program. */
  readonly inProcess?: boolean | undefined;
  /** Model definitions of one's own; they cannot be sent to another process, so only `inProcess`. See `modelDefinitions`. */
  readonly models?: LoadHooks['models'] | undefined;
  /** Bytes done and in all of what `stage` names: the download, then what the engine does. */
  readonly onProgress?: ((done: number, total: number, stage: string) => void) | undefined;
  /** Longest time that tokens wait to leave the engine's process together; see `EngineProcessOptions`. */
  readonly streamIntervalMs?: number | undefined;
  /** Told when the engine's process has died; another one takes its place. */
  readonly onEngineDeath?: ((reason: string) => void) | undefined;
  /** Gives up a download. */
  readonly signal?: AbortSignal | undefined;
}

export async function loadParts(model: string, options: LoadOptions): Promise<LLMParts> {
  checkTextOptions(options);
  const folder = await findFolder(model, options);
  const config = engineConfig(folder ?? model, options);
  const [engine, tokenizer] = await startBoth(config, tokenizerFolder(folder, options), options);
  return {
    engine,
    tokenizer,
    chatTemplate: options.chatTemplate ?? null,
    defaults: await findDefaults(folder, tokenizer, options),
    hasPriorities: config.schedulingPolicy === 'priority',
    seed: config.seed,
  };
}

/** null: a config alone or a preset, which have no files beside them. What else a name may be, the engine says. */
async function findFolder(model: string, options: LoadOptions): Promise<string | null> {
  const { onProgress, signal } = options;
  const stats = await stat(model).catch(() => null);
  if (stats?.isFile() || (!stats && !model.includes('/'))) return null;
  return resolveModel(model, {
    signal,
    onProgress: onProgress && ((p) => onProgress(p.overallBytes, p.overallTotalBytes, 'download')),
  });
}

function engineConfig(model: string, options: LoadOptions): EngineConfig {
  const names = Object.keys(DEFAULT_ENGINE_CONFIG) as (keyof typeof DEFAULT_ENGINE_CONFIG)[];
  const given = names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]);
  return { ...DEFAULT_ENGINE_CONFIG, ...(Object.fromEntries(given) as Partial<EngineConfig>), model };
}

/** Side by side, as both take their time; an engine without its tokenizer is ended again. */
async function startBoth(
  config: EngineConfig,
  tokenizerFolder: string | null,
  options: LoadOptions,
): Promise<[EngineClient, Tokenizer | null]> {
  const [engine, tokenizer] = await Promise.allSettled([
    startEngine(config, options),
    tokenizerFolder === null ? null : Tokenizer.load(tokenizerFolder),
  ]);
  if (engine.status === 'rejected') throw engine.reason;
  if (tokenizer.status === 'fulfilled') return [engine.value, tokenizer.value];
  await engine.value.close();
  throw tokenizer.reason;
}

async function startEngine(config: EngineConfig, options: LoadOptions): Promise<EngineClient> {
  const { onProgress, onEngineDeath, models, streamIntervalMs } = options;
  if (options.inProcess === true) {
    // Native code stays out of this process unless it is wanted here.
    const { loadEngine } = await import('../engine/load-engine.ts');
    return new InProcessEngine(
      await loadEngine(config, { ...(onProgress && { onProgress }), ...(models && { models }) }),
    );
  }
  if (models) throw unsendableModels();
  return startEngineProcess(config, {
    onProgress: ({ done, total, stage }) => onProgress?.(done, total, stage),
    onDeath: (reason) => onEngineDeath?.(reason),
    ...(streamIntervalMs !== undefined && { streamIntervalMs }),
  });
}

function unsendableModels(): NeedletailError {
  return new NeedletailError(
    'invalid_request',
    "models are code, which the engine's process imports by itself: name their modules in modelDefinitions, or set inProcess",
    { param: 'models' },
  );
}

function checkTextOptions({ skipTokenizerInit, tokenizer, chatTemplate }: LoadOptions): void {
  if (skipTokenizerInit !== true || (tokenizer === undefined && chatTemplate === undefined)) return;
  const [flag, param] =
    tokenizer === undefined ? ['chat-template', 'chatTemplate'] : ['tokenizer', 'tokenizer'];
  const message = `--skip-tokenizer-init leaves --${flag} without use: leave one of them out`;
  throw new NeedletailError('invalid_request', message, { param });
}

/** null: none. A model without files and without random weights cannot run anyway, which the engine says better. */
function tokenizerFolder(folder: string | null, options: LoadOptions): string | null {
  if (options.skipTokenizerInit === true) return null;
  const source = options.tokenizer ?? folder;
  if (source !== null || options.loadFormat !== 'dummy') return source;
  throw new NeedletailError(
    'invalid_request',
    'a config alone has no tokenizer; name a folder with --tokenizer, or add --skip-tokenizer-init and send token ids',
    { param: 'tokenizer' },
  );
}

async function findDefaults(
  folder: string | null,
  tokenizer: Tokenizer | null,
  options: LoadOptions,
): Promise<GenerationDefaults> {
  const config = folder === null ? null : await readGenerationConfig(folder, await readConfig(folder));
  const eosTokenIds = endTokens(config, tokenizer);
  if (config === null || options.generationConfig === 'none') return { ...NEUTRAL_DEFAULTS, eosTokenIds };
  const { temperature, topP, topK, minP, repetitionPenalty, maxNewTokens } = config;
  return {
    temperature: temperature ?? NEUTRAL_DEFAULTS.temperature,
    topP: topP ?? NEUTRAL_DEFAULTS.topP,
    topK: topK ?? NEUTRAL_DEFAULTS.topK,
    minP: minP ?? NEUTRAL_DEFAULTS.minP,
    repetitionPenalty: repetitionPenalty ?? NEUTRAL_DEFAULTS.repetitionPenalty,
    maxTokens: maxNewTokens,
    eosTokenIds,
  };
}

/** generation_config.json has the first word, as it often names several. */
function endTokens(config: GenerationConfig | null, tokenizer: Tokenizer | null): readonly number[] {
  const named = config?.eosTokenIds ?? [];
  return named.length > 0 ? named : (tokenizer?.eosTokenIds ?? []);
}
