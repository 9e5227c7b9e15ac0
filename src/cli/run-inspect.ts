// What `needletail inspect` shows: what a model compiles to and what it will take, before anything is loaded.
import { parseHubId } from '../checkpoint/hub-settings.ts';
import { compileRequestFor, compileToFit, type FittedPlan } from '../compiler/compile-to-fit.ts';
import { compile, GRAPH_PASSES } from '../compiler/compile.ts';
import { memoryLedger } from '../compiler/ledger.ts';
import { readPlanDirectory } from '../compiler/plan-directory.ts';
import type { Plan, Target } from '../compiler/plan.ts';
import { kernelUses, printKernels, printPlan } from '../compiler/print-plan.ts';
import { createDevice, kernelsFor } from '../device/create-device.ts';
import type { EngineConfig } from '../engine/config.ts';
import { fitToPlan } from '../engine/plan-limits.ts';
import { findSubject, modelToLoad, type Subject } from '../engine/subject.ts';
import { printGraph } from '../ir/print.ts';
import { isNeedletailError, NeedletailError } from '../util/errors.ts';
import { formatCount } from '../util/format-bytes.ts';
import { engineConfig, type EngineFlags } from './flags.ts';
import { memoryReport } from './memory-report.ts';

export type Section = 'graph' | 'plan' | 'kernels' | 'memory';

export interface InspectFlags extends EngineFlags {
  readonly memory?: number;
  readonly show: readonly Section[];
  readonly pass?: string;
  readonly json?: boolean;
}

/** Names under which a stage of the graph can be asked for. */
const STAGES: readonly string[] = ['definition', ...GRAPH_PASSES.map((pass) => pass.name)];

export async function runInspect(name: string, flags: InspectFlags): Promise<void> {
  checkStage(flags);
  const config = engineConfig(name, flags);
  const found = await findLocally(config);
  const { target, memory } = await describeDevice(config);
  const subject = asLoaded(found, config, target);
  const fitted = await planOf(subject, config, target, flags.memory ?? memory);
  const graph = flags.show.includes('graph')
    ? graphOf(subject, config, fitted.plan, target, flags.pass ?? 'definition')
    : null;
  if (flags.json) printJson(subject, fitted, graph, flags.show);
  else printText(subject, fitted, graph, flags.show);
  if (fitted.ledger.error === null) return;
  console.error(`error: ${fitted.ledger.error}`);
  process.exitCode = 1;
}

function checkStage({ pass, show }: InspectFlags): void {
  if (pass === undefined) return;
  if (!STAGES.includes(pass)) throw badStage(`"${pass}" is none of ${STAGES.join(', ')}`);
  if (!show.includes('graph')) throw badStage('the graph after a pass is seen with --show graph');
}

function badStage(message: string): NeedletailError {
  return new NeedletailError('invalid_request', `--pass: ${message}`, { param: 'pass' });
}

/** Nothing is downloaded for a look. */
async function findLocally(config: EngineConfig): Promise<Subject> {
  try {
    return await findSubject(config, { env: { ...process.env, HF_HUB_OFFLINE: '1' } });
  } catch (error) {
    const name = config.model;
    if (!isNeedletailError(error) || error.code !== 'model_not_found' || !parseHubId(name)) throw error;
    const remedy = `inspect downloads nothing: name its config.json or a preset, or fetch it with needletail build`;
    throw new NeedletailError('model_not_found', `${name} is not on this machine; ${remedy}`, {
      param: 'model',
    });
  }
}

/** With the model as it would be loaded. */
function asLoaded(subject: Subject, config: EngineConfig, target: Target): Subject {
  if (subject.kind === 'plan') return subject;
  return { ...subject, model: modelToLoad(subject, config, target, kernelsFor(target)) };
}

async function describeDevice(config: EngineConfig): Promise<{ target: Target; memory: number }> {
  const device = await createDevice(config.device, config);
  const description = { target: device.target, memory: device.availableMemory() };
  await device.dispose();
  return description;
}

async function planOf(
  subject: Subject,
  config: EngineConfig,
  target: Target,
  availableBytes: number,
): Promise<FittedPlan> {
  if (subject.kind === 'model')
    return compileToFit(subject.model, config, target, kernelsFor(target), availableBytes);
  const { plan, weights } = await readPlanDirectory(subject.directory);
  weights.close();
  const { kvCacheMemoryBytes, memoryUtilization, maxModelLen, maxNumSeqs } = fitToPlan(config, plan);
  const budget = { availableBytes, kvCacheMemoryBytes, memoryUtilization, maxNumSeqs, maxModelLen };
  return { plan, ledger: memoryLedger(plan, budget), shortenedFrom: null };
}

/** The graph at a stage, as it is compiled for the plan's context length. */
function graphOf(subject: Subject, config: EngineConfig, plan: Plan, target: Target, stage: string): string {
  if (subject.kind === 'plan') {
    const message = 'a plan directory holds no graph any more; inspect its checkpoint, or --show plan';
    throw new NeedletailError('invalid_request', message, { param: 'show' });
  }
  const request = compileRequestFor(subject.model, config, target, kernelsFor(target));
  const seen = new Map<string, string>();
  compile({ ...request, maxModelLen: plan.model.maxModelLen }, (pass, graph) => {
    if (pass === stage) seen.set(pass, printGraph(graph));
  });
  return seen.get(stage)!;
}

function printText(
  subject: Subject,
  { plan, ledger, shortenedFrom }: FittedPlan,
  graph: string | null,
  show: readonly Section[],
): void {
  const print: Record<Section, () => string> = {
    graph: () => graph ?? '',
    plan: () => printPlan(plan),
    kernels: () => printKernels(plan),
    memory: () => memoryReport(plan, ledger),
  };
  const shown = (Object.keys(print) as Section[]).filter((section) => show.includes(section));
  console.log(summary(subject.name, plan, shortenedFrom));
  for (const section of shown) console.log(`\n${section}\n${print[section]().trimEnd()}`);
}

function summary(name: string, { header, model }: Plan, shortenedFrom: number | null): string {
  const { modelType, numLayers, numParameters, vocabSize, maxModelLen } = model;
  const shortened = shortenedFrom === null ? '' : ` (the model's ${formatCount(shortenedFrom)} do not fit)`;
  return [
    `${name}: ${modelType}, ${numLayers} layers, ${formatCount(numParameters)} parameters, vocabulary ${vocabSize}`,
    `for ${header.target.kind} ${header.target.arch} in ${header.recipe}, context ${formatCount(maxModelLen)}${shortened}`,
  ].join('\n');
}

function printJson(
  subject: Subject,
  { plan, ledger, shortenedFrom }: FittedPlan,
  graph: string | null,
  show: readonly Section[],
): void {
  const { header, model, limits, blockSize } = plan;
  const report = {
    name: subject.name,
    ...{ header, model, limits, blockSize, shortenedFrom },
    ...(graph !== null && { graph }),
    ...(show.includes('plan') && { plan }),
    ...(show.includes('kernels') && { kernels: kernelUses(plan) }),
    ...(show.includes('memory') && { memory: ledger }),
  };
  console.log(JSON.stringify(report, null, 2));
}
