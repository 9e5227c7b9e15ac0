// What `needletail build` does: compile a model and pack its weights into a plan directory.
import { compile } from '../compiler/compile.ts';
import { compileRequestFor } from '../compiler/compile-to-fit.ts';
import { packWeight } from '../compiler/pack-weight.ts';
import { weightOffsets } from '../compiler/packed-weights.ts';
import { companionFiles, writePlanDirectory } from '../compiler/plan-directory.ts';
import type { Plan, Target } from '../compiler/plan.ts';
import { createDevice, kernelsFor } from '../device/create-device.ts';
import type { EngineConfig } from '../engine/config.ts';
import { findSubject, modelToLoad, openTensors } from '../engine/subject.ts';
import { NeedletailError } from '../util/errors.ts';
import { formatBytes } from '../util/format-bytes.ts';
import { engineConfig, type EngineFlags } from './flags.ts';
import { interruption } from './interruption.ts';
import { approval, type QualityFlags } from './plan-quality.ts';
import { progressBar } from './progress.ts';

export interface BuildFlags extends EngineFlags, QualityFlags {
  readonly output: string;
}

export async function runBuild(name: string, flags: BuildFlags): Promise<void> {
  const config = engineConfig(name, flags);
  const download = progressBar('downloading');
  const subject = await findSubject(config, {
    onProgress: ({ overallBytes, overallTotalBytes }) => download(overallBytes, overallTotalBytes),
  });
  if (subject.kind === 'plan') {
    throw new NeedletailError('invalid_request', `${subject.name} is a plan directory already`, {
      param: 'model',
    });
  }
  const target = await targetOf(config);
  const kernels = kernelsFor(target);
  const model = modelToLoad(subject, config, target, kernels);
  const plan = compile(compileRequestFor(model, config, target, kernels));
  const signal = interruption('interrupted; nothing was written');
  const source = openTensors(subject, plan, config);
  try {
    await writePlanDirectory(
      flags.output,
      {
        plan,
        config: subject.model.config,
        pack: (weight) => packWeight(weight, source),
        files: subject.checkpoint === null ? [] : await companionFiles(subject.checkpoint.directory),
      },
      { onProgress: progressBar('packing'), signal, approve: approval(config, plan, flags, signal) },
    );
  } finally {
    source.close();
  }
  console.log(describe(plan, flags.output));
}

async function targetOf(config: EngineConfig): Promise<Target> {
  const device = await createDevice(config.device, config);
  await device.dispose();
  return device.target;
}

function describe(plan: Plan, output: string): string {
  const { target, recipe } = plan.header;
  const size = formatBytes(weightOffsets(plan).totalBytes);
  return `${output}: ${size} of weights for ${target.kind} ${target.arch} in ${recipe}. Serve it: needletail serve ${output}`;
}
