// What an engine, `inspect` or `build` is given: a checkpoint, a plan directory, a config alone, or a preset.
import { readdir, readFile, stat } from 'node:fs/promises';
import { openCheckpoint, whyNoWeights, type Checkpoint } from '../checkpoint/checkpoint.ts';
import { dummySource } from '../checkpoint/dummy.ts';
import { readConfig } from '../checkpoint/hf-config.ts';
import { configFormats } from '../checkpoint/quantized/config-formats.ts';
import { resolveModel, type ResolveOptions } from '../checkpoint/resolve-model.ts';
import { publishedDType, type ModelToCompile, type PlanSettings } from '../compiler/compile-to-fit.ts';
import { dummyModel } from '../compiler/dummy-model.ts';
import { expectedTensors } from '../compiler/expected-tensors.ts';
import { isPlanDirectory } from '../compiler/plan-directory.ts';
import type { Plan, Target } from '../compiler/plan.ts';
import type { KernelDescription } from '../kernels/kernel.ts';
import type { HFConfig, ModelDefinition } from '../models/model-definition.ts';
import { findPreset, presetNames } from '../models/presets.ts';
import { findModel } from '../models/registry.ts';
import type { TensorSource } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject } from '../util/json-file.ts';
import type { EngineConfig } from './config.ts';
import { importModelDefinitions } from './model-definitions.ts';

export interface ModelSubject {
  readonly kind: 'model';
  readonly name: string;
  readonly model: ModelToCompile;
  /** null: there is a config and no weights; `whyNone` then says why. */
  readonly checkpoint: Checkpoint | null;
  readonly whyNone: NeedletailError | null;
}

export type Subject =
  { readonly kind: 'plan'; readonly name: string; readonly directory: string } | ModelSubject;

export interface SubjectOptions extends ResolveOptions {
  /** Definitions beside those of `modelDefinitions` and the built-in ones. */
  readonly models?: readonly ModelDefinition[] | undefined;
}

/**
 * Finds what `config.model` names; what is on the hub but not here is looked for as `options` say.
 * Throws `model_not_found` saying what a model can be, `unsupported_model` naming the known architectures.
 */
export async function findSubject(
  { model: name, modelDefinitions }: Pick<EngineConfig, 'model' | 'modelDefinitions'>,
  options: SubjectOptions = {},
): Promise<Subject> {
  const own = [...(options.models ?? []), ...(await importModelDefinitions(modelDefinitions))];
  const stats = await stat(name).catch(() => null);
  if (stats?.isFile()) return configSubject(name, await readConfigFile(name), own);
  const preset = findPreset(name);
  if (!stats && preset) return configSubject(preset.name, preset.config, own);
  if (!stats && !name.includes('/')) throw unknownModel(name);
  return folderSubject(name, await resolveModel(name, options), own);
}

/** The model as it is compiled for loading: where weights are random, as if they had been quantized before. */
export function modelToLoad(
  { model }: ModelSubject,
  settings: PlanSettings & Pick<EngineConfig, 'loadFormat'>,
  target: Target,
  kernels: readonly KernelDescription[],
): ModelToCompile {
  if (settings.loadFormat !== 'dummy') return model;
  const { config, formats } = configFormats(model.config);
  return dummyModel({ ...model, config }, formats, settings, target, kernels);
}

/** The tensors that a plan is loaded from: the checkpoint's, or random ones where they are asked for. */
export function openTensors(
  subject: ModelSubject,
  plan: Plan,
  { loadFormat, seed }: Pick<EngineConfig, 'loadFormat' | 'seed'>,
): TensorSource {
  if (loadFormat !== 'dummy') return checkpointTensors(subject);
  const { config, tensors } = subject.model;
  return dummySource(expectedTensors(plan, publishedDType(config, tensors)), seed);
}

/** The checkpoint's tensors as the model's graph means them. */
export function checkpointTensors({ model, checkpoint, whyNone }: ModelSubject): TensorSource {
  if (checkpoint === null) throw whyNone!;
  const { definition, config } = model;
  return definition.adaptTensors?.(checkpoint.source, config) ?? checkpoint.source;
}

async function folderSubject(
  name: string,
  directory: string,
  own: readonly ModelDefinition[],
): Promise<Subject> {
  if (await isPlanDirectory(directory)) return { kind: 'plan', name, directory };
  const whyNone = whyNoWeights(directory, new Set(await readdir(directory)));
  if (whyNone !== null) return configSubject(name, await readConfig(directory), own, whyNone);
  const checkpoint = await openCheckpoint(directory);
  const { config, tensors, hash } = checkpoint;
  const model = { definition: findModel(config, own), config, tensors, checkpointHash: hash };
  return { kind: 'model', name, model, checkpoint, whyNone };
}

function configSubject(
  name: string,
  config: HFConfig,
  own: readonly ModelDefinition[],
  whyNone = configAlone(name),
): Subject {
  const model = { definition: findModel(config, own), config, tensors: null, checkpointHash: null };
  return { kind: 'model', name, model, checkpoint: null, whyNone };
}

async function readConfigFile(file: string): Promise<HFConfig> {
  const text = await readFile(file, 'utf8');
  try {
    const config: unknown = JSON.parse(text);
    if (isJsonObject(config)) return config;
  } catch {
    // Said below, in our own words.
  }
  throw new NeedletailError('bad_checkpoint', `${file} is no config.json: it holds no JSON object`, {
    param: 'model',
  });
}

function configAlone(name: string): NeedletailError {
  const message = `${name} has no weights here; name a folder with a checkpoint, or add --load-format dummy for random ones`;
  return new NeedletailError('model_not_found', message, { param: 'model' });
}

function unknownModel(name: string): NeedletailError {
  const choices = 'a checkpoint folder, a plan directory, a config.json, a hub id org/name, or a preset';
  return new NeedletailError(
    'model_not_found',
    `there is no "${name}" here; a model is ${choices}: ${presetNames().join(', ')}`,
    { param: 'model' },
  );
}
