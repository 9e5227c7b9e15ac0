// What `needletail eval weights` does: the error that a recipe makes in each weight, without running the model.
import { formatStamp, formatTable, stampRun, writeRecord, writeText } from '../bench/report.ts';
import { compile } from '../compiler/compile.ts';
import { compileRequestFor } from '../compiler/compile-to-fit.ts';
import { createDevice, kernelsFor } from '../device/create-device.ts';
import { findSubject, openTensors } from '../engine/subject.ts';
import { errorPlot } from '../eval/error-plot.ts';
import { errorCurves, findWeight, floatsOf, weightErrors, type WeightError } from '../eval/weight-errors.ts';
import { NeedletailError } from '../util/errors.ts';
import { engineConfig, type EngineFlags } from './flags.ts';

export interface EvalWeightsFlags extends EngineFlags {
  readonly weight?: string;
  readonly plot?: string;
  readonly outputJson?: string;
}

export async function runEvalWeights(name: string, flags: EvalWeightsFlags): Promise<void> {
  const config = engineConfig(name, flags);
  if ((flags.plot === undefined) !== (flags.weight === undefined))
    throw refused('plot', 'goes with --weight: the weight whose values are drawn, and the file to draw into');
  const subject = await findSubject(config);
  if (subject.kind === 'plan')
    throw new NeedletailError(
      'invalid_request',
      `${subject.name} is a plan directory, which holds codes alone; name the checkpoint that it was built from`,
      { param: 'model' },
    );
  const device = await createDevice(config.device, config);
  await device.dispose();
  const plan = compile(compileRequestFor(subject.model, config, device.target, kernelsFor(device.target)));
  const source = openTensors(subject, plan, config);
  try {
    if (flags.plot !== undefined) {
      const spec = findWeight(plan, flags.weight!);
      writeText(flags.plot, errorPlot(spec.name, errorCurves(floatsOf(spec, source), spec.shape[1])));
    }
    const errors = [...weightErrors(plan, source)];
    if (errors.length === 0 && flags.plot === undefined)
      throw refused('quantization', 'name a recipe: without one no weight is quantized');
    report(errors, plan.header.recipe, flags);
  } finally {
    source.close();
  }
}

function report(errors: readonly WeightError[], recipe: string, { outputJson }: EvalWeightsFlags): void {
  const stamp = stampRun();
  const percent = (share: number) => `${(100 * share).toFixed(3)} %`;
  const rows = errors.map(({ name, shape, format, relativeError, largestError }) => [
    name,
    shape.join(' × '),
    format,
    percent(relativeError),
    percent(largestError),
  ]);
  console.log(formatStamp(stamp));
  if (rows.length > 0)
    console.log(`\n${formatTable([['weight', 'shape', 'format', 'RMS error', 'largest'], ...rows])}`);
  if (outputJson !== undefined) writeRecord(outputJson, { ...stamp, recipe, weights: errors });
}

function refused(flag: string, message: string): NeedletailError {
  return new NeedletailError('invalid_request', `--${flag}: ${message}`, { param: flag });
}
