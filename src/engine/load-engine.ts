// From settings to a running engine: find the model, compile it, weigh it, load it onto a device.
import { compileToFit, type FittedPlan } from '../compiler/compile-to-fit.ts';
import { memoryLedger } from '../compiler/ledger.ts';
import { readPlanDirectory } from '../compiler/plan-directory.ts';
import type { Plan } from '../compiler/plan.ts';
import { readQualityCard, type QualityCard } from '../compiler/quality-card.ts';
import { createDevice, kernelsFor } from '../device/create-device.ts';
import type { Device, Executable } from '../device/device.ts';
import type { ModelDefinition } from '../models/model-definition.ts';
import type { PackedWeightSource, TensorSource } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import { BlockManager } from './block-manager.ts';
import { checkConfig } from './check-config.ts';
import { systemClock, type Clock } from './clock.ts';
import type { EngineConfig } from './config.ts';
import { LLMEngine } from './llm-engine.ts';
import { ModelRunner } from './model-runner.ts';
import { fitToPlan } from './plan-limits.ts';
import type { PlanQuality } from './protocol.ts';
import {
  findSubject,
  modelToLoad,
  openTensors,
  type ModelSubject,
  type Subject,
  type SubjectOptions,
} from './subject.ts';

export interface LoadHooks {
  /** Bytes done and in all; `stage` is `download`, then `weights`. */
  readonly onProgress?: (done: number, total: number, stage: string) => void;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  /** Model definitions of one's own, which come before those of `modelDefinitions` and the built-in ones. */
  readonly models?: readonly ModelDefinition[];
  /** One that is open already; it stays open when the engine is closed. */
  readonly device?: Device;
}

/** A plan that fits, and where its weights come from. */
interface Prepared extends FittedPlan {
  readonly source: TensorSource | PackedWeightSource;
  readonly config: EngineConfig;
  readonly quality: PlanQuality | null;
}

/** A plan on the device that runs it. */
export interface LoadedModel extends FittedPlan {
  readonly config: EngineConfig;
  readonly quality: PlanQuality | null;
  readonly device: Device;
  readonly executable: Executable;
  /** Frees the device, unless it was given. */
  readonly close: () => Promise<void>;
}

/**
 * Loads a model in this process. Throws a `NeedletailError` that says what to do: `model_not_found`,
 * `unsupported_model`, `bad_checkpoint`, `bad_plan`, `out_of_memory` with the ledger, `invalid_request` for a setting.
 */
export async function loadEngine(config: EngineConfig, hooks: LoadHooks = {}): Promise<LLMEngine> {
  return createEngine(await loadExecutable(config, hooks), hooks.clock ?? systemClock);
}

/** The same without an engine around it, for those who make their own steps; `close` it. */
export async function loadExecutable(config: EngineConfig, hooks: LoadHooks = {}): Promise<LoadedModel> {
  checkConfig(config);
  const subject = await findSubject(config, subjectOptions(hooks));
  const device = hooks.device ?? (await createDevice(config.device, config));
  const close = async (): Promise<void> => {
    if (!hooks.device) await device.dispose();
  };
  try {
    const prepared = await prepare(subject, config, device);
    return { ...prepared, device, executable: await loadPlan(prepared, device, hooks), close };
  } catch (error) {
    await close();
    throw error;
  }
}

function subjectOptions({ onProgress, signal, models }: LoadHooks): SubjectOptions {
  return {
    models,
    signal,
    onProgress: (progress) => onProgress?.(progress.overallBytes, progress.overallTotalBytes, 'download'),
  };
}

function prepare(subject: Subject, config: EngineConfig, device: Device): Promise<Prepared> | Prepared {
  return subject.kind === 'plan'
    ? openPlan(subject.directory, config, device)
    : compileSubject(subject, config, device);
}

function compileSubject(subject: ModelSubject, config: EngineConfig, device: Device): Prepared {
  const { target } = device;
  const kernels = kernelsFor(target);
  const model = modelToLoad(subject, config, target, kernels);
  const fitted = compileToFit(model, config, target, kernels, device.availableMemory());
  return { ...fitted, config, quality: null, source: openTensors(subject, fitted.plan, config) };
}

async function openPlan(directory: string, config: EngineConfig, device: Device): Promise<Prepared> {
  const { plan, weights } = await readPlanDirectory(directory, { target: device.target });
  const fitted = fitToPlan(config, plan);
  const ledger = memoryLedger(plan, {
    availableBytes: device.availableMemory(),
    kvCacheMemoryBytes: config.kvCacheMemoryBytes,
    memoryUtilization: config.memoryUtilization,
    maxNumSeqs: fitted.maxNumSeqs,
    maxModelLen: fitted.maxModelLen,
  });
  const quality = qualityOf(await readQualityCard(directory));
  return { plan, ledger, shortenedFrom: null, config: fitted, quality, source: weights };
}

function qualityOf(card: QualityCard | null): PlanQuality | null {
  if (card === null) return null;
  const { text, perplexity, baseline } = card;
  return {
    text: text.name,
    perplexity,
    perplexityDelta: baseline?.perplexityDelta ?? null,
    baseline: baseline?.recipe ?? null,
  };
}

async function loadPlan(prepared: Prepared, device: Device, hooks: LoadHooks): Promise<Executable> {
  const { plan, ledger, source } = prepared;
  const { onProgress, signal } = hooks;
  try {
    if (ledger.error !== null) throw new NeedletailError('out_of_memory', ledger.error);
    return await device.load(plan, source, {
      numBlocks: ledger.numBlocks,
      onProgress: (done, total) => onProgress?.(done, total, 'weights'),
      ...(signal && { signal }),
    });
  } finally {
    source.close();
  }
}

function createEngine(loaded: LoadedModel, clock: Clock): LLMEngine {
  const { plan, ledger, shortenedFrom, config, device, executable, quality, close } = loaded;
  return new LLMEngine({
    runner: new ModelRunner(executable),
    info: {
      maxModelLen: config.maxModelLen ?? plan.model.maxModelLen,
      shortenedFrom,
      vocabSize: plan.model.vocabSize,
      maxNumSeqs: config.maxNumSeqs,
      maxNumBatchedTokens: config.maxNumBatchedTokens,
      blockSize: plan.blockSize,
      numBlocks: Math.min(...ledger.numBlocks),
      device: `${plan.header.target.kind} (${device.description})`,
      recipe: plan.header.recipe,
      quality,
    },
    blocks: createBlockManager(plan, ledger.numBlocks, config),
    scheduling: config,
    maxNumPromptRows: plan.limits.maxNumLogitRows - config.maxNumSeqs,
    clock,
    onClose: close,
  });
}

function createBlockManager(plan: Plan, numBlocks: readonly number[], config: EngineConfig): BlockManager {
  return new BlockManager({
    blockSize: plan.blockSize,
    groups: plan.kvCacheGroups.map(({ window }, group) => ({ numBlocks: numBlocks[group], window })),
    enablePrefixCaching: config.enablePrefixCaching,
    hashSeed: `${plan.header.checkpointHash}/${plan.header.recipe}`,
  });
}
