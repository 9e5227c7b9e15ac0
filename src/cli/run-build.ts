// What `needletail build` does: compile a model and pack its weights into a plan directory.
import { compile } from '../compiler/compile.ts';
import { compileRequestFor } from '../compiler/compile-to-fit.ts';
import { WeightPacker } from '../compiler/pack-weight.ts';
import { weightOffsets } from '../compiler/packed-weights.ts';
import { companionFiles, writePlanDirectory } from '../compiler/plan-directory.ts';
import type { Plan, Target } from '../compiler/plan.ts';
import { createDevice, kernelsFor } from '../device/create-device.ts';
import type { EngineConfig } from '../engine/config.ts';
import { findSubject, modelToLoad, openTensors, type ModelSubject } from '../engine/subject.ts';
import { calibrateModel, type CalibratedModel, type CalibrationRequest } from '../eval/calibrate-model.ts';
import { NeedletailError } from '../util/errors.ts';
import { formatBytes, formatCount } from '../util/format-bytes.ts';
import { calibrationRequest, type CalibrationFlags } from './calibration-flags.ts';
import { engineConfig, type EngineFlags } from './flags.ts';
import { interruption } from './interruption.ts';
import { approval, checkQualityFlags, type QualityFlags } from './plan-quality.ts';
import { progressBar } from './progress.ts';

export interface BuildFlags extends EngineFlags, QualityFlags, Omit<CalibrationFlags, keyof EngineFlags> {
  readonly output: string;
}

export async function runBuild(name: string, flags: BuildFlags): Promise<void> {
  const config = engineConfig(name, flags);
  const calibration = calibrationRequest(flags);
  await checkQualityFlags(flags);
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
  const signal = interruption('interrupted; nothing was written');
  const calibrated = calibration && (await runCalibration(subject, config, calibration, signal));
  const model = calibrated
    ? { ...subject.model, tensors: calibrated.catalog }
    : modelToLoad(subject, config, target, kernels);
  const plan = compile(compileRequestFor(model, config, target, kernels));
  const approve = approval(config, plan, flags, signal);
  const source = calibrated?.source ?? openTensors(subject, plan, config);
  const packer = new WeightPacker(source);
  try {
    await writePlanDirectory(
      flags.output,
      {
        plan,
        config: model.config,
        pack: (weight) => packer.pack(weight),
        files: subject.checkpoint === null ? [] : await companionFiles(subject.checkpoint.directory),
      },
      { onProgress: progressBar('packing'), signal, approve },
    );
  } finally {
    source.close();
  }
  console.log(describe(plan, flags.output));
}

async function runCalibration(
  subject: ModelSubject,
  config: EngineConfig,
  request: CalibrationRequest,
  signal: AbortSignal,
): Promise<CalibratedModel> {
  const onProgress = progressBar('calibrating', String);
  const calibrated = await calibrateModel(subject, config, request, { signal, onProgress });
  const { numTokens, numScaled, numLeft } = calibrated;
  const scaled = numScaled === 0 ? '' : `; ${formatCount(numScaled)} inputs rescaled`;
  const left =
    numLeft === 0
      ? ''
      : `; ${formatCount(numLeft)} weights left as they are, cut from their tensors by columns`;
  console.log(`calibrated on ${formatCount(numTokens)} tokens of ${request.file}${scaled}${left}`);
  return calibrated;
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
