// The reference device: runs any plan by the ops' own definitions, on the calling thread. Slow, and right.
import { freemem } from 'node:os';
import { setImmediate } from 'node:timers/promises';
import type { Plan, Target, WeightSpec } from '../../compiler/plan.ts';
import type { ParameterQuantization } from '../../ir/graph.ts';
import { assembleWeight } from '../../ir/assemble-weight.ts';
import { decodeTensor } from '../../tensor/codes.ts';
import { isFloatDType, roundTo } from '../../tensor/dtype.ts';
import { findBadScale } from '../../tensor/quantize-rows.ts';
import type { PackedWeightSource, TensorSource } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { Device, Executable, LoadOptions } from '../device.ts';
import { ReferenceExecutable } from './reference-executable.ts';

/** More than an interpreter can put to use. */
const MAX_MEMORY_BYTES = 4 * 2 ** 30;

export class ReferenceDevice implements Device {
  readonly target: Target = { kind: 'reference', arch: 'interpreter' };
  readonly description = 'interpreter in TypeScript, for tests';

  availableMemory(): number {
    return Math.min(freemem(), MAX_MEMORY_BYTES);
  }

  async load(
    plan: Plan,
    source: TensorSource | PackedWeightSource,
    options: LoadOptions,
  ): Promise<Executable> {
    const { kind } = plan.header.target;
    if (kind !== this.target.kind) {
      throw new NeedletailError(
        'bad_plan',
        `this plan is for a ${kind} device, not for the reference device`,
      );
    }
    const weights: Float32Array[] = [];
    const totalBytes = plan.weights.reduce((sum, weight) => sum + weight.bytes, 0);
    let loadedBytes = 0;
    for (const spec of plan.weights) {
      options.signal?.throwIfAborted();
      weights.push('readPacked' in source ? unpackWeight(spec, source) : readWeight(spec, source));
      options.onProgress?.((loadedBytes += spec.bytes), totalBytes);
      await setImmediate();
    }
    return new ReferenceExecutable(plan, weights, options.numBlocks);
  }

  async dispose(): Promise<void> {}
}

/** The weight's numbers: codes as they are, floats as they survive in the weight's type. */
function readWeight(spec: WeightSpec, source: TensorSource): Float32Array {
  const weight = assembleWeight(spec, (name) => decodeTensor(source.read(name)));
  if (spec.quantization && spec.quantization.holds !== 'codes') checkScales(spec, spec.quantization, weight);
  const { dtype } = spec;
  return isFloatDType(dtype) ? weight.map((value) => roundTo(dtype, value)) : weight;
}

function checkScales(
  { name }: WeightSpec,
  { format, holds }: ParameterQuantization,
  scales: Float32Array,
): void {
  if (holds === 'inputOrder') return;
  const bad = findBadScale(scales, holds === 'scales' && format.hasZeros);
  if (bad === null) return;
  throw new NeedletailError(
    'bad_checkpoint',
    `weight ${name} has a scale of ${bad}: its values cannot be used`,
  );
}

function unpackWeight({ id, dtype, shape }: WeightSpec, source: PackedWeightSource): Float32Array {
  return decodeTensor({ dtype, shape, bytes: source.readPacked(id) });
}
